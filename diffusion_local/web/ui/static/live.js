// A part of the page that the server draws (look.js): patches what is there, matched by data-key, so that pictures do not
// flicker, a progress bar glides and the keyboard focus stays; and turns clicks on [data-do] into events for the server.
// Parts inside Gradio's page are gr.HTML components; those of the shell (templates/shell.html) are plain elements.
window.diffusionLocalPart = (element, root, name, trigger) => {

  function children(old, fresh) {
    const keyed = new Map();
    for (const node of old.childNodes) if (node.dataset?.key) keyed.set(node.dataset.key, node);
    const kept = new Set();
    let at = old.firstChild;
    for (const node of [...fresh.childNodes]) {
      const key = node.dataset?.key;
      let match = key ? keyed.get(key) : null;
      if (!key && at && at.nodeName === node.nodeName && !at.dataset?.key) match = at;
      if (match && match.nodeName === node.nodeName && !kept.has(match)) {
        if (match === at) at = at.nextSibling;
        else old.insertBefore(match, at);
        patch(match, node);
        kept.add(match);
      } else {
        old.insertBefore(node, at);
        kept.add(node);
      }
    }
    for (const node of [...old.childNodes]) {
      if (kept.has(node)) continue;
      if (node.id === "tile-tools") kept.add(node);
      else {
        rescue(node);
        node.remove();
      }
    }
  }

  // The tools of the tile under the pointer belong to the page, not to the tile.
  function rescue(node) {
    const tools = node.querySelector?.("#tile-tools");
    if (!tools) return;
    tools.hidden = true;
    document.body.append(tools);
  }

  const OURS = new Set(["open", "data-above", "style"]); // of a <details>: set here, not by the server
  function patch(old, fresh) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.textContent !== fresh.textContent) old.textContent = fresh.textContent;
      return;
    }
    if (old.dataset.picked !== undefined) return; // the bar of a selection is written here
    if (fresh.dataset.same !== undefined) return;
    for (const { name } of [...old.attributes]) {
      if (OURS.has(name) && old.nodeName === "DETAILS") continue;
      if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    children(old, fresh);
  }

  // The server does not know the reader's time zone.
  const CLOCK = { hour: "numeric", minute: "2-digit" };
  const EXACT = { ...CLOCK, second: "2-digit" };
  function localTimes(tree) {
    const language = document.documentElement.lang || [];
    for (const time of tree.querySelectorAll("time[datetime]")) {
      const moment = new Date(time.dateTime);
      if (Number.isNaN(moment.valueOf())) continue;
      const exact = time.dataset.exact !== undefined;
      const today = moment.toDateString() === new Date().toDateString();
      time.textContent = today
        ? moment.toLocaleTimeString(language, exact ? EXACT : CLOCK)
        : moment.toLocaleString(language, { dateStyle: "medium", timeStyle: exact ? "medium" : "short" });
    }
  }

  // Ticked rows. They live here, and survive a redraw; those whose row is gone are forgotten.
  const picked = new Set();
  let latest = null; // ticked last, and where a range begins
  let ranged = false;
  root.addEventListener("pointerdown", ({ shiftKey }) => { ranged = shiftKey; });
  root.addEventListener("keydown", ({ shiftKey }) => { ranged = shiftKey; });
  function pick(box) {
    const boxes = [...root.querySelectorAll("[data-pick]")];
    const from = ranged ? boxes.findIndex(({ dataset }) => dataset.pick === latest) : -1;
    const at = boxes.indexOf(box);
    const all = from < 0 ? [box] : boxes.slice(Math.min(from, at), Math.max(from, at) + 1);
    for (const { dataset } of all) {
      if (box.checked) picked.add(dataset.pick);
      else picked.delete(dataset.pick);
    }
    latest = box.dataset.pick;
    showPicked();
  }
  function showPicked() {
    const boxes = [...root.querySelectorAll("[data-pick]")];
    const there = new Set(boxes.map((box) => box.dataset.pick));
    for (const id of picked) if (!there.has(id)) picked.delete(id);
    for (const box of boxes) box.checked = picked.has(box.dataset.pick);
    const bar = root.querySelector("[data-picked]");
    if (!bar) return;
    bar.hidden = picked.size === 0;
    const count = bar.querySelector(".count");
    count.textContent = picked.size ? count.dataset.words.replace("{}", picked.size) : "";
  }

  // The pictures of the strip make room for others: those that are elsewhere after a redraw glide to their new place.
  function gliding() {
    const strip = root.querySelector(".strip");
    if (!strip?.offsetParent) return () => {};
    const parts = () => [...strip.querySelectorAll(".shot, .count, .rest, .divider, :scope > .act")];
    const places = new Map(parts().map((each) => [each, each.getBoundingClientRect()]));
    return () => {
      const now = parts();
      for (const each of now) for (const glide of each.getAnimations()) glide.cancel(); // of the redraw before
      const moves = now.filter((each) => places.has(each)).map((each) => {
        const [was, is] = [places.get(each), each.getBoundingClientRect()];
        return [each, was.left - is.left, was.top - is.top];
      });
      for (const [each, x, y] of moves)
        if (x || y) each.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], GLIDE);
    };
  }
  const GLIDE = { duration: 160, easing: "ease-out" };

  // While the gallery scrolls, most of its tiles stay: those whose HTML is the same are not parsed and compared again.
  const TILE = /\n(?=<div class="tile" data-key=)/;
  let tiles = new Map(); // HTML by key
  function withoutSame(html) {
    const [first, ...rest] = html.split(TILE);
    const last = rest.pop(); // what follows the tiles is a part of it
    if (last === undefined) return html;
    const there = new Set([...root.querySelectorAll(".tile")].map(({ dataset }) => dataset.key));
    const known = tiles;
    tiles = new Map(rest.map((tile) => [tile.slice(0, tile.indexOf(">")).match(/data-key="([^"]*)"/)[1], tile]));
    const kept = [...tiles].map(([key, tile]) =>
      there.has(key) && known.get(key) === tile ? `<div data-key="${key}" data-same></div>` : tile);
    return [first, ...kept, last].join("\n");
  }

  let before = null; // what had the focus when a dialog opened
  function draw(html) {
    const fresh = document.createElement("div");
    fresh.innerHTML = withoutSame(html ?? "");
    localTimes(fresh);
    const hadDialog = root.querySelector("[role=dialog]");
    const active = document.activeElement;
    const glide = gliding();
    children(root, fresh);
    glide();
    showPicked();
    // A row that moved has lost the focus.
    if (active && active !== document.activeElement && root.contains(active)) active.focus({ preventScroll: true });
    const dialog = root.querySelector("[role=dialog]");
    if (dialog && !hadDialog) {
      before = active;
      dialog.querySelector("[data-first]")?.focus({ preventScroll: true });
    } else if (!dialog && hadDialog) {
      before?.focus?.();
    }
  }

  async function act(target) {
    const { do: verb, id = "", sure, many, stay, ask, answer } = target.dataset;
    const named = many === undefined ? id : [id, ...picked].filter(Boolean).join(" ");
    const form = target.closest("[data-fields]"); // what its form holds goes behind the id, and so does what is typed
    let typed = form && new URLSearchParams(new FormData(form)).toString();
    if (ask) typed = await window.diffusionLocalAsk(ask, { answer, label: target.textContent.trim() });
    if (sure && (await window.diffusionLocalAsk(sure, { label: target.ariaLabel ?? target.textContent.trim() })) === null) return;
    if (ask && !typed?.trim()) return;
    trigger({ do: verb, id: typed ? `${named}\n${typed.trim()}` : named });
    if (target.dataset.unpick !== undefined) unpick();
    const menu = target.closest("details.menu");
    if (menu && stay === undefined) shut(menu);
  }

  // Menus: one at a time; closed by a choice, by Escape and by a click elsewhere; arrow keys walk.
  const openMenus = () => root.querySelectorAll("details.menu[open]");
  function shut(menu) {
    const inside = menu.contains(document.activeElement);
    menu.open = false;
    if (inside) menu.querySelector("summary").focus({ preventScroll: true });
  }
  root.addEventListener("toggle", ({ target }) => {
    if (!target.open || !target.matches("details.menu")) return;
    for (const menu of openMenus()) if (menu !== target) menu.open = false;
    const { top, bottom } = target.getBoundingClientRect();
    const [above, below] = [top - 16, window.innerHeight - bottom - 16];
    const up = target.querySelector(".items").scrollHeight > below && above > below;
    delete target.dataset.above;
    if (up) target.dataset.above = "";
    target.style.setProperty("--room", `${Math.max(120, up ? above : below)}px`);
  }, true);
  document.addEventListener("click", (event) => {
    for (const menu of openMenus()) if (!menu.contains(event.target)) menu.open = false;
  });
  function menuKey(event) {
    const [menu] = openMenus();
    if (!menu) return false;
    if (event.key === "Escape") {
      shut(menu);
      return true;
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !menu.contains(document.activeElement)) return false;
    const items = [...menu.querySelectorAll(".items :is(button, a)")];
    const at = items.indexOf(document.activeElement);
    items[at < 0 ? (step > 0 ? 0 : items.length - 1) : (at + step + items.length) % items.length].focus();
    event.preventDefault();
    return true;
  }

  function unpick() {
    const mode = root.querySelector(".selecting input");
    if (mode) mode.checked = false;
    picked.clear();
    showPicked();
  }

  element.addEventListener("change", ({ target }) => {
    if (target.closest(".selecting") && !target.checked) unpick();
    if (target.dataset?.set && target.reportValidity()) // a control of its own: its value goes behind the id
      trigger({ do: target.dataset.set, id: `${target.dataset.id}\n${target.value}` });
    if (target.dataset?.pick) pick(target);
  });

  element.addEventListener("keydown", (event) => { // Enter in a form of ours
    if (event.key !== "Enter" || !event.target.matches("[data-fields] input")) return;
    event.preventDefault();
    act(event.target.closest("form").querySelector("[data-do]"));
  });

  element.addEventListener("click", (event) => {
    const left = event.target.closest(".menu a, .menu [data-import], .menu [data-turn], .menu [data-use]");
    if (left) shut(left.closest("details.menu"));
    if (event.target.closest("[data-pick-all]")) {
      for (const box of root.querySelectorAll("[data-pick]")) picked.add(box.dataset.pick);
      showPicked();
    }
    if (event.target.closest("[data-unpick]:not([data-do])")) {
      unpick();
      return;
    }
    const elsewhere = event.target.closest("[data-href]"); // an address for the ticked ones
    if (elsewhere) window.location.href = elsewhere.dataset.href + [...picked].join(",");
    const target = event.target.closest("[data-do]");
    if (!target || !root.contains(target)) return;
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a picture's link opens in a new tab
    if (target.dataset.self !== undefined && event.target !== target) return; // a backdrop, not what is on it
    event.preventDefault();
    act(target);
  });

  document.addEventListener("keydown", (event) => {
    if (menuKey(event)) return;
    const dialog = root.querySelector("[role=dialog]");
    if (!dialog) return;
    if (event.key === "Escape") act(dialog.querySelector("[data-first]"));
    if (event.key === "Tab") {
      const stops = [...dialog.querySelectorAll("a[href], button:not([disabled]), summary, input, select")];
      const edge = event.shiftKey ? stops[0] : stops.at(-1);
      if (document.activeElement === edge) {
        event.preventDefault();
        (event.shiftKey ? stops.at(-1) : stops[0]).focus();
      }
    }
  });

  document.addEventListener("diffusion-local:drawn", ({ detail }) => {
    if (name in detail && element.isConnected) draw(detail[name]);
  });
  return draw;
};

// Called by each gr.HTML when it appears (element, trigger, props and watch come from Gradio). The toast, which is always
// there, also takes the events of the shell's parts.
window.diffusionLocalLive = (element, trigger, props, watch) => {
  const name = element.closest(".block.live-part").id;
  const act = (data) => trigger(window.diffusionLocalFormVerbs.includes(data.do) ? "apply" : "click", data);
  const draw = window.diffusionLocalPart(element, element.querySelector(".live"), name, act);
  watch("value", () => {
    draw(props.value);
    if (name === "toast" && props.value.includes("toast restarting")) window.diffusionLocalLook.restarts();
  });
  draw(window.diffusionLocalLook.drawn[name] ?? props.value);
  if (name !== "toast") return;
  window.diffusionLocalAct = act;
  for (const data of window.diffusionLocalWaiting.splice(0)) act(data);
};
window.diffusionLocalWaiting = []; // events from before Gradio was there
window.diffusionLocalAct = (data) => window.diffusionLocalWaiting.push(data);
