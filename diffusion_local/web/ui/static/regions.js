// Regions with prompts of their own (templates/regions.html), as boxes on a board with the picture's proportions and as rows
// of a list. The option's text field is the form's value: "PROMPT:x=0.5:width=0.5, ...". Boxes are elements, not paint, so
// that each has the focus, a name for screen readers, and keys: arrows move it, with Shift they resize it, Delete removes it.
(() => {
  const PAIR_START = /^[a-z_]+=/;
  const SHARES = ["x", "y", "width", "height"];
  const WEIGHT = 0.8; // of a region without one
  const NEW = { prompt: "", x: 0.25, y: 0.25, width: 0.5, height: 0.5, weight: WEIGHT };
  const CORNERS = ["nw", "ne", "sw", "se"];
  const field = () => document.querySelector("#regions textarea");
  const panel = () => document.querySelector(".region-list");
  const board = () => panel().querySelector(".board");
  const limits = () => ({ most: Number(panel().dataset.most), least: Number(panel().dataset.least) });
  const round = (value) => Math.round(value * 1000) / 1000;
  const within = (value, low, high) => Math.min(Math.max(value, low), Math.max(low, high));
  let regions = [];
  let shown = null; // the text that the board shows
  let held = null; // {at, corner, from, begun} of a box under a pointer

  // -- the text; see Region in options/types.py
  function entries(text) {
    const found = [];
    let entry = [];
    for (const segment of text.split(",")) {
      if (!entry.length && !segment.trim()) continue;
      entry.push(entry.length ? segment : segment.trimStart());
      const last = entry.at(-1);
      const cut = last.lastIndexOf(":");
      if (PAIR_START.test(last.slice(cut + 1)) && (cut > 0 || (entry.length > 1 && cut >= 0))) {
        found.push(entry.join(","));
        entry = [];
      }
    }
    return entry.length ? [...found, entry.join(",")] : found;
  }
  const decoded = (text) => { try { return decodeURIComponent(text); } catch { return text; } };
  function read(text) {
    return entries(text).map((each) => {
      const parts = each.split(":");
      let first = parts.length;
      while (first > 1 && PAIR_START.test(parts[first - 1])) first -= 1;
      const given = Object.fromEntries(parts.slice(first).map((pair) => pair.split("=", 2)));
      const number = (name, usual) => name in given && Number.isFinite(Number(given[name])) ? Number(given[name]) : usual;
      const [x, y] = [number("x", 0), number("y", 0)];
      return {
        prompt: decoded(parts.slice(0, first).join(":")),
        x, y, width: number("width", round(1 - x)), height: number("height", round(1 - y)), weight: number("weight", WEIGHT),
      };
    });
  }
  function written({ prompt, weight, ...shares }) {
    const safe = prompt.replaceAll("%", "%25").replace(/:(?=[a-z_]+=)/g, "%3A").replace(/^,/, "%2C");
    const pairs = SHARES.map((name) => `${name}=${round(shares[name])}`);
    return [safe, ...pairs, ...(weight === WEIGHT ? [] : [`weight=${weight}`])].join(":");
  }
  function write() {
    shown = regions.map(written).join(", ");
    const input = field();
    input.value = shown;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }

  // -- drawing
  const percent = (value) => `${round(value * 100)}%`;
  function number(element, at) { // a change of the text calls the observer below
    const shows = element.querySelector("b");
    if (shows.textContent !== String(at + 1)) shows.textContent = at + 1;
  }
  function drawBox(box, { prompt, x, y, width, height }, at) {
    Object.assign(box.style, { left: percent(x), top: percent(y), width: percent(width), height: percent(height) });
    box.setAttribute("aria-label", `${at + 1}: ${prompt} (${percent(x)}, ${percent(y)}, ${percent(width)} × ${percent(height)})`);
    number(box, at);
  }
  function drawRow(row, region, at) {
    number(row, at);
    for (const part of row.querySelectorAll("[data-part]")) {
      const value = region[part.dataset.part];
      const text = SHARES.includes(part.dataset.part) ? String(round(value * 100)) : String(value);
      if (part !== document.activeElement && part.value !== text) part.value = text;
    }
  }
  function newBox() {
    const box = document.createElement("div");
    box.className = "box";
    box.tabIndex = 0;
    box.setAttribute("role", "button");
    box.append(document.createElement("b"), ...CORNERS.map((corner) => {
      const handle = document.createElement("i");
      handle.dataset.corner = corner;
      return handle;
    }));
    return box;
  }
  const newRow = () => panel().querySelector("template").content.firstElementChild.cloneNode(true);
  function drawAll(parent, make, drawOne) {
    while (parent.children.length > regions.length) parent.lastElementChild.remove();
    while (parent.children.length < regions.length) parent.append(make());
    regions.forEach((region, at) => drawOne(parent.children[at], region, at));
  }
  function draw() {
    drawAll(board(), newBox, drawBox);
    drawAll(panel().querySelector("ul"), newRow, drawRow);
    panel().querySelector("[data-region=add]").disabled = regions.length >= limits().most;
    const side = (name) => Number(document.querySelector(`#${name} input`)?.value) || 1;
    const begin = document.querySelector("#source .begin:not([hidden]) .from img:not(.mask)");
    const ratio = begin?.naturalWidth ? begin.naturalWidth / begin.naturalHeight : side("width") / side("height");
    board().style.aspectRatio = String(ratio);
    board().style.backgroundImage = begin ? `url("${begin.src}")` : "";
  }
  function show() {
    const input = field();
    if (!input) return;
    if (!panel()) {
      const template = document.getElementById("regions-panel");
      if (!template) return;
      const text = document.getElementById("regions");
      (text.closest(".row") ?? text).before(template.content.firstElementChild.cloneNode(true));
      wire();
    }
    if (input.value !== shown && !held) {
      shown = input.value;
      regions = read(shown).slice(0, limits().most);
    }
    draw();
  }

  // -- changes
  function change(at, changes) {
    const { least } = limits();
    const region = { ...regions[at], ...changes };
    region.width = within(region.width, least, 1);
    region.height = within(region.height, least, 1);
    region.x = within(region.x, 0, 1 - region.width);
    region.y = within(region.y, 0, 1 - region.height);
    for (const name of SHARES) region[name] = round(region[name]);
    regions[at] = region;
    draw();
  }
  function add(region, focus) {
    if (regions.length >= limits().most) return -1;
    regions.push({ ...region });
    draw();
    if (focus) rowOf(regions.length - 1).querySelector("[data-part=prompt]").focus();
    return regions.length - 1;
  }
  function remove(at) {
    regions.splice(at, 1);
    draw();
    write();
    (board().children[Math.min(at, regions.length - 1)] ?? panel().querySelector("[data-region=add]")).focus();
  }
  const rowOf = (at) => panel().querySelector("ul").children[at];
  const place = (element) => [...element.parentElement.children].indexOf(element);
  // The box between two points, each {x, y}.
  const between = (one, other) => ({
    x: Math.min(one.x, other.x), y: Math.min(one.y, other.y), width: Math.abs(one.x - other.x), height: Math.abs(one.y - other.y),
  });

  // -- pointers
  function point(event) {
    const { left, top, width, height } = board().getBoundingClientRect();
    return { x: within((event.clientX - left) / width, 0, 1), y: within((event.clientY - top) / height, 0, 1) };
  }
  function down(event) {
    if (event.button || held) return; // a second finger changes nothing
    const now = point(event);
    const box = event.target.closest(".box");
    if (box) {
      const at = place(box);
      const { x, y, width, height } = regions[at];
      const corner = event.target.dataset.corner;
      // A corner is dragged against the opposite one.
      const fixed = corner && { x: corner.includes("w") ? x + width : x, y: corner.includes("n") ? y + height : y };
      held = { at, begun: now, from: { ...regions[at] }, fixed };
      box.focus();
    } else {
      if (regions.length >= limits().most) return;
      held = { at: -1, begun: now, from: null, fixed: now };
    }
    held.pointer = event.pointerId;
    board().setPointerCapture(event.pointerId);
    event.preventDefault();
  }
  function move(event) {
    if (!held || held.pointer !== event.pointerId) return;
    const now = point(event);
    if (held.at < 0) { // a new box, once it has a size
      const { least } = limits();
      const drawn = between(held.fixed, now);
      if (drawn.width < least || drawn.height < least) return;
      held.at = add({ ...NEW, ...drawn });
      held.made = true;
    }
    if (held.fixed) change(held.at, between(held.fixed, now));
    else change(held.at, { x: held.from.x + now.x - held.begun.x, y: held.from.y + now.y - held.begun.y });
  }
  function up(event) {
    if (!held || held.pointer !== event.pointerId) return;
    const { at, from, made } = held;
    held = null;
    if (event.type === "pointercancel") {
      if (made) regions.splice(at, 1);
      else if (at >= 0) regions[at] = from;
      draw();
      return;
    }
    if (at < 0) return;
    write();
    if (made) rowOf(at).querySelector("[data-part=prompt]").focus();
  }

  // -- keys
  const ARROWS = { ArrowLeft: ["x", "width", -1], ArrowRight: ["x", "width", 1], ArrowUp: ["y", "height", -1], ArrowDown: ["y", "height", 1] };
  function key(event) {
    const box = event.target.closest(".box");
    if (!box) return;
    const at = place(box);
    if (ARROWS[event.key]) {
      const [start, length, by] = ARROWS[event.key];
      const name = event.shiftKey ? length : start;
      const most = event.shiftKey ? 1 - regions[at][start] : 1;
      change(at, { [name]: Math.min(most, regions[at][name] + by * 0.02) });
      write();
    } else if (event.key === "Delete" || event.key === "Backspace") remove(at);
    else if (event.key === "Enter" || event.key === " ") rowOf(at).querySelector("[data-part=prompt]").focus();
    else return;
    event.preventDefault();
    event.stopPropagation(); // the page's own keys
  }

  function wire() {
    const on = board();
    on.addEventListener("pointerdown", down);
    on.addEventListener("pointermove", move);
    for (const end of ["pointerup", "pointercancel"]) on.addEventListener(end, up);
    on.addEventListener("keydown", key);
    panel().addEventListener("click", ({ target }) => {
      const verb = target.closest("[data-region]")?.dataset.region;
      if (verb === "add") { add(NEW, true); write(); }
      if (verb === "remove") remove(place(target.closest("li")));
    });
    panel().addEventListener("change", ({ target }) => {
      const [part, row] = [target.dataset.part, target.closest("li")];
      if (!part || !row) return;
      const value = part === "prompt" ? target.value.trim() : Number(target.value);
      change(place(row), { [part]: SHARES.includes(part) ? value / 100 : part === "weight" ? within(value, 0, 1) : value });
      write();
    });
  }

  let waits = 0;
  const soon = () => {
    cancelAnimationFrame(waits);
    waits = requestAnimationFrame(() => requestAnimationFrame(show));
  };
  window.diffusionLocalRegions = { show: soon };
  document.addEventListener("input", ({ target }) => {
    if (!held && target.closest?.("#regions, #width, #height")) soon();
  });
  // The text field exists only while its group is open.
  new MutationObserver((all) => {
    if (all.some(({ target }) => target.closest?.("#group-regions, #source"))) soon();
  }).observe(document.documentElement, { subtree: true, childList: true, attributes: true, attributeFilter: ["hidden"] });
})();
