import { render } from "preact";
import "uplot/dist/uPlot.min.css";
import "./style/base.css";
import "./style/parts.css";
import "./style/pages.css";
import "./theme.ts";
import { App } from "./app.tsx";
import { followAddress } from "./router.ts";
import { followDev } from "./state/dev.ts";
import { followTroubles } from "./state/troubles.ts";

followAddress();
followDev();
followTroubles();
const root = document.getElementById("studio");
if (root) render(<App />, root);
