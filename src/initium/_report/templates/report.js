"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  function theme() {
    const button = document.getElementById("theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    const remembered = (value) => {
      try {
        if (value) localStorage.setItem("initium-theme", value);
        return localStorage.getItem("initium-theme");
      } catch { return null; }
    };
    const dark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
    const label = () => {
      button.textContent = dark() ? "Light" : "Dark";
      button.setAttribute("aria-label", `Switch to the ${dark() ? "light" : "dark"} theme`);
    };
    const stored = remembered();
    if (stored === "dark" || stored === "light") root.dataset.theme = stored;
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      remembered(root.dataset.theme);
      label();
    });
    system.addEventListener("change", label);
    button.hidden = false;
    label();
  }

  function charts(box) {
    const points = JSON.parse(box.querySelector("script").textContent);
    const readout = box.querySelector("[data-readout]");
    const cursors = all(".cursor", box);
    if (!points.length) return;
    let at = -1;

    const part = (label, value) => {
      const item = document.createElement("span");
      const name = document.createElement("span");
      name.textContent = `${label} `;
      item.append(name, value);
      return item;
    };
    const hint = () => {
      const text = document.createElement("span");
      text.className = "hint";
      text.textContent = "Point at a layer, or use the arrow keys; Enter goes to its row.";
      readout.replaceChildren(text);
    };
    const show = (index) => {
      at = Math.max(0, Math.min(points.length - 1, index));
      const point = points[at];
      const name = document.createElement("b");
      name.textContent = point.name;
      readout.replaceChildren(
        name, part("", point.type), part("E[x²]", point.moment),
        ...(point.signal === undefined ? [] : [part("signal", point.signal)]),
        part("E[g²]", point.gradient));
      for (const cursor of cursors) {
        cursor.hidden = false;
        cursor.style.left = `${((at + 0.5) / points.length) * 100}%`;
      }
      box.setAttribute("aria-valuenow", at + 1);
      box.setAttribute("aria-valuetext",
        `${point.name}, second moment ${point.moment}, gradient ${point.gradient}`);
    };
    const go = () => {
      const row = at >= 0 && document.getElementById(points[at].row);
      if (row) location.hash = points[at].row;
      if (row) land();
    };

    box.tabIndex = 0;
    box.setAttribute("role", "slider");
    box.setAttribute("aria-label", "Layer, from input to output");
    box.setAttribute("aria-valuemin", 1);
    box.setAttribute("aria-valuemax", points.length);
    box.setAttribute("aria-valuenow", 1);
    box.setAttribute("aria-valuetext", "no layer chosen");
    hint();
    for (const area of all(".area", box)) {
      const index = (event) => {
        const { left, width } = area.getBoundingClientRect();
        return Math.floor(((event.clientX - left) / width) * points.length);
      };
      area.addEventListener("pointermove", (event) => show(index(event)));
      area.addEventListener("click", (event) => { show(index(event)); go(); });
    }
    box.addEventListener("keydown", (event) => {
      const far = Math.max(1, Math.round(points.length / 10));
      const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1,
        PageUp: at + far, PageDown: at - far, Home: 0, End: points.length - 1 }[event.key];
      if (to !== undefined) show(to);
      else if (event.key === "Enter") go();
      else return;
      event.preventDefault();
    });
  }

  function tools(bar) {
    const table = document.getElementById(bar.dataset.tools);
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const [text, flagged] = all("input", bar);
    const output = bar.querySelector("output");
    const total = output.textContent;

    const filter = () => {
      const wanted = text.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const content = row.textContent.toLowerCase();
        const fits = wanted.every((word) => content.includes(word))
          && (!flagged.checked || row.querySelector(".flag"));
        row.hidden = !fits;
        shown += Boolean(fits);
      }
      output.textContent = shown === rows.length ? total : `${shown.toLocaleString("en")} of ${total}`;
    };
    text.addEventListener("input", filter);
    flagged.addEventListener("change", filter);
    table.reveal = () => {
      text.value = "";
      flagged.checked = false;
      filter();
    };

    const number = (cell) => {
      const value = cell.dataset.v;
      const known = { inf: Infinity, "-inf": -Infinity }[value];
      return known ?? (value === "" ? NaN : Number(value));
    };
    all("thead th", table).forEach((head, column, heads) => {
      head.querySelector("button").addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const numeric = head.classList.contains("number");
        const key = (row) => numeric
          ? number(row.cells[column]) : row.cells[column].textContent.trim();
        const compare = (a, b) => {
          const [x, y] = up ? [a.key, b.key] : [b.key, a.key];
          if (!numeric) return x.localeCompare(y, "en", { numeric: true });
          const [xn, yn] = [Number.isNaN(a.key), Number.isNaN(b.key)];
          return xn || yn ? xn - yn : (x > y) - (x < y);
        };
        const keyed = rows.map((row) => ({ row, key: key(row) }));
        body.append(...keyed.sort(compare).map(({ row }) => row));
      });
    });
    bar.hidden = false;
  }

  function land() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let box = target.closest("details"); box; box = box.parentElement.closest("details")) {
      box.open = true;
    }
    if (target.hidden) target.closest("table")?.reveal?.();
    if (target.tabIndex === -1) target.focus({ preventScroll: true });
    target.scrollIntoView({ block: target.tagName === "TR" ? "center" : "start" });
  }

  theme();
  all("[data-charts]").forEach(charts);
  all("[data-tools]").forEach(tools);
  addEventListener("hashchange", land);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (link && link.hash === location.hash) land();
  });
  if (location.hash) land();
})();
