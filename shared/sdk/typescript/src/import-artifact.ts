/** Imports an artifact so that its code runs now, whether or not the same path was imported before. */
import { pathToFileURL } from "node:url";

const imported = new Map<string, number>();

/** The module's exports. Each call evaluates the module anew; what it imports by bare names is shared. */
export async function importArtifact(path: string): Promise<Record<string, unknown>> {
  const { href } = pathToFileURL(path);
  const times = imported.get(href) ?? 0;
  imported.set(href, times + 1);
  return (await import(times === 0 ? href : `${href}?again=${times}`)) as Record<string, unknown>;
}
