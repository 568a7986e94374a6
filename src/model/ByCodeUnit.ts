/** The order of names wherever bytes depend on it: the same under every locale. For `sort`. */
export const byCodeUnit = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)
