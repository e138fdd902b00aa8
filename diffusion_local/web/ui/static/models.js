// The Models tab (templates/models.html): search, filters and sorting happen in the browser; the address holds them.
(() => {
  let asked = new URLSearchParams();
  const NAMES = ["search", "show", "family", "sort"];
  const control = (name) => document.querySelector(`#models [data-models-${name}]`);
  const number = (card, name) => Number(card.dataset[name]) || 0;
  const ORDER = {
    name: (one, other) => one.dataset.name.localeCompare(other.dataset.name),
    size: (one, other) => number(other, "size") - number(one, "size"),
    recent: (one, other) => other.dataset.recent.localeCompare(one.dataset.recent),
  };
  function show() {
    const words = (asked.get("search") ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    const [only, family, sort] = [asked.get("show"), asked.get("family"), ORDER[asked.get("sort")]];
    let any = false;
    for (const shelf of document.querySelectorAll("#models [data-shelf]")) {
      const cards = [...shelf.querySelectorAll("[data-search]")];
      let seen = 0;
      for (const card of cards) {
        card.hidden = !words.every((word) => card.dataset.search.includes(word)) || !!family && card.dataset.family !== family;
        seen += !card.hidden;
      }
      if (sort) [...cards].sort(sort).forEach((card, at) => { card.style.order = at; });
      else for (const card of cards) card.style.order = "";
      shelf.hidden = !!only && shelf.dataset.shelf !== only || !seen && (words.length || !!family);
      any ||= !shelf.hidden;
    }
    const none = document.querySelector("[data-models-none]");
    if (none) none.hidden = any;
    for (const name of NAMES) {
      const field = control(name);
      if (field && field !== document.activeElement && field.value !== (asked.get(name) ?? "")) field.value = asked.get(name) ?? "";
    }
  }
  document.addEventListener("diffusion-local:went", ({ detail }) => {
    if (detail.view !== "models") return;
    asked = new URLSearchParams(detail.query);
    show();
  });
  document.addEventListener("diffusion-local:drawn", ({ detail }) => { if ("models" in detail) queueMicrotask(show); });
  document.addEventListener("input", ({ target }) => {
    const name = NAMES.find((each) => target.matches?.(`[data-models-${each}]`));
    if (!name) return;
    if (target.value) asked.set(name, target.value);
    else asked.delete(name);
    window.diffusionLocalRouter.query("models", asked, { replace: true });
    show();
  });
})();
