/** What steps that compute nothing say of their training. */
export const known = {
  languages: ["en"],
  trainSources: ["a"],
  evaluateSources: [],
  context: 8,
  vocabulary: 300,
  shape: { layers: 1, width: 8, heads: 1 },
  rowsPerStep: 1,
}
