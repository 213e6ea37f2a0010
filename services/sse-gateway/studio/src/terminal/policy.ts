// The page's policy allows no style that is written into the document, and the terminal writes its own there. They are
// taken up by style sheets that script may make, which the policy is not about.

import type { Terminal } from "@xterm/xterm";

/** Opens `terminal` in `element`; in place of the style elements that it makes meanwhile stand others, with a sheet each. */
export function openWithin(terminal: Terminal, element: HTMLElement) {
  const make = document.createElement.bind(document);
  const sheets: CSSStyleSheet[] = [];
  document.createElement = ((name: string, options?: ElementCreationOptions) => {
    if (name.toLowerCase() !== "style") return make(name, options);
    // Even an empty style element is one too many for the policy.
    const made = make("template");
    sheets.push(adopt(made));
    return made;
  }) as typeof document.createElement;
  try {
    terminal.open(element);
  } finally {
    Reflect.deleteProperty(document, "createElement");
  }
  const dispose = terminal.dispose.bind(terminal);
  terminal.dispose = () => {
    dispose();
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((sheet) => !sheets.includes(sheet));
  };
}

function adopt(style: HTMLElement): CSSStyleSheet {
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  let text = "";
  Object.defineProperty(style, "textContent", {
    get: () => text,
    set: (value: string | null) => {
      text = value ?? "";
      sheet.replaceSync(text);
    },
  });
  return sheet;
}
