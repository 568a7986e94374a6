import { describe, expect, it } from "vitest"
import { summariseDivergence, tokenDivergence } from "../../src/evaluation/Divergence.ts"

describe("divergence", () => {
  it("of a model to itself is nothing", () => {
    const logits = Float32Array.of(1, -2, 0.5, 9)
    const token = tokenDivergence(logits, logits, 2)
    expect(token).toMatchObject({ kld: 0, deltaP: 0, sameTop: true })
    expect(token.nll).toBe(token.baseNll)
  })

  it("is Σ p·log(p/q), and does not mind what is added to all logits", () => {
    const p = [0.5, 0.25, 0.25]
    const q = [0.25, 0.25, 0.5]
    const logits = (shares: ReadonlyArray<number>, added: number) =>
      Float32Array.from(shares, (share) => Math.log(share) + added)
    const token = tokenDivergence(logits(p, 40), logits(q, -3), 0)
    expect(token.kld).toBeCloseTo(0.5 * Math.log(2) - 0.25 * Math.log(2), 5)
    expect(token.nll).toBeCloseTo(Math.log(4), 5)
    expect(token.baseNll).toBeCloseTo(Math.log(2), 5)
    expect(token.deltaP).toBeCloseTo(-0.25, 5)
    expect(token.sameTop).toBe(false)
  })

  it("leaves out what the base holds all but impossible, as llama.cpp does", () => {
    const base = Float32Array.of(0, -17)
    expect(tokenDivergence(base, Float32Array.of(0, -300), 0).kld).toBeLessThan(1e-6)
    expect(tokenDivergence(Float32Array.of(0, -15), Float32Array.of(0, -300), 0).kld).toBeGreaterThan(8e-5)
  })

  it("is summed up with llama.cpp's uncertainties", () => {
    const nll = [1, 2, 3, 6]
    const baseNll = [1, 2.5, 2, 5]
    const kld = [0.1, 0.4, 0.2, 0.3]
    const deltaP = [0.1, -0.2, 0.05, 0.3]
    const loss = summariseDivergence(
      nll.map((_, i) => ({ nll: nll[i]!, baseNll: baseNll[i]!, kld: kld[i]!, deltaP: deltaP[i]!, sameTop: i > 0 })),
    )
    // by hand: means 3 and 2.625; variances of the means 3.5/3 and 2.171875/3, covariance 2.625/3
    const ppl = Math.exp(3)
    const base = Math.exp(2.625)
    const own = ppl * Math.sqrt(3.5 / 3)
    const width = ({ ci95 }: { readonly ci95?: readonly [number, number] }) => (ci95![1] - ci95![0]) / 2 / 1.959964
    expect(loss.ppl.value).toBeCloseTo(ppl, 10)
    expect(width(loss.ppl)).toBeCloseTo(own, 8)
    expect(loss.delta_ppl.value).toBeCloseTo(ppl - base, 10)
    expect(width(loss.delta_ppl)).toBeCloseTo(
      Math.sqrt(own ** 2 + (base ** 2 * 2.171875) / 3 - (2 * ppl * base * 2.625) / 3),
      8,
    )
    expect(loss.kld.value).toBeCloseTo(0.25, 12)
    expect(width(loss.kld)).toBeCloseTo(Math.sqrt(0.0125 / 3), 10)
    expect([loss.kld_median, loss.kld_p99, loss.kld_max]).toEqual([0.25, expect.closeTo(0.397, 10), 0.4])
    expect(loss.mean_delta_p.value).toBeCloseTo(0.0625, 12)
    const squares = [0.01, 0.04, 0.0025, 0.09]
    const mean = 0.035625
    const variance = squares.reduce((sum, square) => sum + (square - mean) ** 2, 0) / 4 / 3
    expect(loss.rms_delta_p.value).toBeCloseTo(Math.sqrt(mean), 12)
    expect(width(loss.rms_delta_p)).toBeCloseTo((0.5 / Math.sqrt(mean)) * Math.sqrt(variance), 10)
    expect(loss.same_top_p.value).toBe(0.75)
    expect(width(loss.same_top_p)).toBeCloseTo(Math.sqrt((0.75 * 0.25) / 3), 10)
    expect(loss.kld.n).toBe(4)
  })
})
