import { rmSync } from "node:fs";

rmSync(new URL("../.test", import.meta.url), { recursive: true, force: true });
