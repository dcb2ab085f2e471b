// What every module needs of the vendored libraries.
import { h, render, Component } from "./vendor/preact.js";
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);
export { h, render, Component, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState };
