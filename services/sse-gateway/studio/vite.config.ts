import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  build: {
    target: "es2022",
    // One flat folder: the gateway serves names, not paths.
    assetsDir: "",
    // Everything stays a file: the page's policy allows no inlined script or style.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
});
