// Removes what an earlier build left, so that no test of a deleted source goes on to pass.
import { rmSync } from "node:fs";

rmSync(new URL("../dist", import.meta.url), { recursive: true, force: true });
