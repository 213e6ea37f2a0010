// The terminal's code is large and is fetched when one is shown.

import { useEffect, useState } from "preact/hooks";
import { words } from "../net/ask.ts";
import { Banner, Empty } from "../ui/parts.tsx";
import type { ScreenProps } from "./screen.tsx";

type Screen = typeof import("./screen.tsx").Screen;

export function LazyScreen(props: ScreenProps) {
  const [loaded, setLoaded] = useState<{ Screen?: Screen; why?: string }>({});
  useEffect(() => {
    let here = true;
    import("./screen.tsx").then(
      ({ Screen }) => here && setLoaded({ Screen }),
      (error) => here && setLoaded({ why: words(error) }),
    );
    return () => { here = false; };
  }, []);
  if (loaded.why) return <Banner tone="bad">The terminal cannot be loaded: {loaded.why}.</Banner>;
  if (!loaded.Screen) return <Empty title="Loading the terminal…" />;
  return <loaded.Screen {...props} />;
}
