/** Where things are, seen from the compiled tests. */

/** The package's folder. */
export const SOURCE_ROOT = new URL("../../", import.meta.url);

/** A compiled module of `src`. */
export function compiled(name: string): string {
  return new URL(`../src/${name}`, import.meta.url).pathname;
}
