// The Queue tab (tab_queue.py): folds, filters and pages are kept in this browser and sent in one line to the server, which
// draws the tab. Filters and folds survive a reload; pages do not.
window.diffusionLocalQueue = (() => {
  const KEPT = "diffusion-local-queue";
  const MOST = 50; // batches whose fold is remembered
  const FILTERS = ["state", "model", "owner", "text"];
  const PAGES = ["live", "ended", "wide"];
  const OUTLIVE = [...FILTERS, "open", "shut"];
  const place = new URLSearchParams(localStorage.getItem(KEPT) ?? "");
  const list = (name) => (place.get(name) ?? "").split(" ").filter(Boolean);
  function put(name, value) {
    const written = Array.isArray(value) ? value.join(" ") : value;
    if (written) place.set(name, written);
    else place.delete(name);
  }
  const without = (name, id) => list(name).filter((each) => each.split(":")[0] !== id);
  function tell() {
    const kept = new URLSearchParams([...place].filter(([name]) => OUTLIVE.includes(name)));
    localStorage.setItem(KEPT, kept.toString());
    const field = document.querySelector("#queue-place :is(textarea, input)");
    if (!field) return;
    field.value = place.toString();
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  function narrow(name, value) {
    put(name, value);
    for (const each of PAGES) place.delete(each); // another question begins at its first page
  }
  const TURNS = {
    fold(id, _, target) {
      const opened = target.getAttribute("aria-expanded") === "true";
      put("open", without("open", id));
      put("shut", without("shut", id));
      const name = opened ? "shut" : "open";
      put(name, [...list(name), id].slice(-MOST));
    },
    wide(id, value, target) {
      put("wide", [...without("wide", id), `${id}:${value}`]);
      if (target.closest("nav").querySelector("[data-turn=narrow]")) above(target);
    },
    narrow(id, _, target) {
      put("wide", without("wide", id));
      above(target);
    },
    ahead: (id, value) => put(id, [...list(id), value]),
    back: (id) => put(id, list(id).slice(0, -1)),
    first: (id) => put(id, ""),
    clear() {
      for (const name of [...FILTERS, ...PAGES]) place.delete(name);
      for (const field of document.querySelectorAll("[data-wanted]")) field.value = "";
    },
  };
  for (const name of FILTERS) TURNS[name] = (_, value) => narrow(name, value);
  // Another window of rows replaces these, so scroll to its start.
  function above(target) {
    const head = target.closest(".group").querySelector(".group-head");
    if (head.getBoundingClientRect().top < 0) head.scrollIntoView();
  }
  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.("[data-turn]");
    if (!button) return;
    TURNS[button.dataset.turn]?.(button.dataset.id, button.dataset.value, button);
    tell();
  });
  let typing;
  document.addEventListener("input", ({ target }) => {
    if (!target.matches?.("[data-wanted]")) return;
    clearTimeout(typing);
    typing = setTimeout(() => {
      narrow(target.dataset.wanted, target.value.trim());
      tell();
    }, 250);
  });
  return { written: () => [place.toString()] };
})();
