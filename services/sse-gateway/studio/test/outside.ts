// What the page's modules find outside in these tests: no document, and a server that answers what it is told to.

export interface Asked {
  path: string;
  answer: (body: unknown, status?: number) => void;
}

export const asked: Asked[] = [];

Object.assign(globalThis, {
  document: { querySelector: () => null, addEventListener: () => {}, hidden: false },
  requestAnimationFrame: (act: () => void) => setTimeout(act, 0),
  fetch: (path: string, { signal }: RequestInit = {}) =>
    new Promise<Response>((resolve, reject) => {
      signal?.addEventListener("abort", () => reject(new Error("aborted")));
      asked.push({
        path,
        answer: (body, status = 200) => resolve(new Response(typeof body === "string" || body instanceof ReadableStream ? body : JSON.stringify(body), { status })),
      });
    }),
});

/** What `look` finds once it finds something. */
export async function until<T>(what: string, look: () => T): Promise<NonNullable<T>> {
  const end = Date.now() + 10_000;
  for (;;) {
    const found = look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`no ${what}; asked: ${asked.map(({ path }) => path).join(" ")}`);
    await new Promise((go) => setTimeout(go, 1));
  }
}

/** The next request for a path that begins so. Each is given once. */
export async function request(begin: string): Promise<Asked> {
  const place = () => asked.findIndex(({ path }) => path.startsWith(begin));
  await until(`request for ${begin}`, () => place() >= 0);
  return asked.splice(place(), 1)[0]!;
}
