/**
 * Evaluates an artifact so that its memory can be had back.
 *
 * Node keeps every module that `import()` loaded for as long as the process lives, about 0.6 MB for a bundle of
 * 228 kB. A `vm.SourceTextModule` that nobody refers to is collected. What the artifact imports is loaded by the
 * real loader, which resolves it from the artifact's own place, and is shared between artifacts as it would be.
 * Without `--experimental-vm-modules`, or on a Node that lacks a part of it, this is a plain `import()`.
 */
import { readFileSync } from "node:fs";
import { dirname } from "node:path";
import { pathToFileURL } from "node:url";
import * as vm from "node:vm";

import { importArtifact } from "./import-artifact.ts";

type Exports = Record<string, unknown>;
type Attributes = Record<string, string>;
type NativeImport = (specifier: string, options?: { with: Attributes }) => Promise<Exports>;

/** Uses of `import.meta` that only the loader can answer, such as `import.meta.resolve`. */
const NEEDS_LOADER = /import\.meta(?!\.(?:url|dirname|filename)\b)/;

const DEFAULT_LOADER = (vm as { constants?: { USE_MAIN_CONTEXT_DEFAULT_LOADER?: unknown } }).constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER;

/** The module's exports. Each call evaluates the module anew. */
export async function evaluateModule(path: string): Promise<Exports> {
  if (vm.SourceTextModule === undefined || DEFAULT_LOADER === undefined) return importArtifact(path);
  const source = readFileSync(path, "utf8");
  if (NEEDS_LOADER.test(source)) return importArtifact(path);
  let importer: NativeImport | undefined;
  const nativeImport: NativeImport = (specifier, options) => (importer ??= importerAt(path))(specifier, options);
  const module = new vm.SourceTextModule(source, {
    identifier: pathToFileURL(path).href,
    initializeImportMeta: (meta) => describe(meta, path),
    importModuleDynamically: ((specifier: string, _module: unknown, attributes: Attributes) =>
      nativeImport(specifier, { with: attributes })) as never,
  });
  // One after the other: what is imported runs in the order in which it is named.
  let previous: Promise<unknown> = Promise.resolve();
  await module.link((specifier, _module, extra) => {
    const attributes = (extra as { attributes?: Attributes; assert?: Attributes }).attributes ?? {};
    const linked = previous.then(async () => asModule(await nativeImport(specifier, { with: attributes })));
    previous = linked.catch(() => undefined);
    return linked;
  });
  await module.evaluate();
  return module.namespace as Exports;
}

/** `import()` as code in the file `path` would do it. */
function importerAt(path: string): NativeImport {
  return vm.compileFunction("return import(specifier, options)", ["specifier", "options"], {
    filename: path,
    importModuleDynamically: DEFAULT_LOADER as never,
  }) as NativeImport;
}

const wrapped = new WeakMap<Exports, vm.Module>();

/** A module of the real loader, in a form that a `SourceTextModule` can be linked to. */
function asModule(exports: Exports): vm.Module {
  const known = wrapped.get(exports);
  if (known !== undefined) return known;
  const names = Object.keys(exports);
  const module = new vm.SyntheticModule(names, () => {
    for (const name of names) module.setExport(name, exports[name]);
  });
  wrapped.set(exports, module);
  return module;
}

function describe(meta: ImportMeta, path: string): void {
  Object.assign(meta, { dirname: dirname(path), filename: path, url: pathToFileURL(path).href });
}
