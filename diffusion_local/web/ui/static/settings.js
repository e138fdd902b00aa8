// The Settings tab (templates/settings.html): search happens in the browser; links of the list of groups scroll.
(() => {
  const field = () => document.querySelector("#settings [data-settings-search]");
  const groups = () => [...document.querySelectorAll("#settings .groups > section")];
  let words = [];
  function show() {
    let any = false;
    for (const group of groups()) {
      const rows = [...group.querySelectorAll("[data-search]")];
      let seen = 0;
      for (const row of rows) {
        row.hidden = !words.every((word) => row.dataset.search.includes(word));
        seen += !row.hidden;
      }
      group.hidden = words.length > 0 && !seen;
      any ||= !group.hidden;
      const rest = group.querySelector("details[data-key=rest]");
      if (rest && words.length) rest.open = [...rest.querySelectorAll("[data-search]")].some((row) => !row.hidden);
    }
    const none = document.querySelector("[data-settings-none]");
    if (none) none.hidden = any;
  }
  document.addEventListener("input", ({ target }) => {
    if (!target.matches?.("[data-settings-search]")) return;
    words = target.value.toLowerCase().split(/\s+/).filter(Boolean);
    window.diffusionLocalRouter.query("settings", new URLSearchParams({ search: target.value }), { replace: true });
    show();
  });
  function arrive(hash) {
    if (hash.startsWith("#settings-")) document.querySelector(hash)?.scrollIntoView({ block: "start" });
  }
  let wanted = "";
  document.addEventListener("diffusion-local:went", ({ detail }) => {
    if (detail.view !== "settings") return;
    const text = detail.query.get("search") ?? "";
    words = text.toLowerCase().split(/\s+/).filter(Boolean);
    if (field() && field().value !== text) field().value = text;
    wanted = location.hash;
    requestAnimationFrame(() => arrive(wanted));
  });
  document.addEventListener("diffusion-local:drawn", ({ detail }) => {
    if (!("settings" in detail)) return;
    queueMicrotask(() => {
      if (words.length && field() && !field().value) field().value = words.join(" ");
      show();
      if (wanted) requestAnimationFrame(() => { arrive(wanted); wanted = ""; });
    });
  });
})();
