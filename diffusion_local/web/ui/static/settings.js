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

// What is wrong in a form that was sent is told at its field, until that changes; elsewhere it stays a toast.
(() => {
  let sent = null; // the form of the newest press
  document.addEventListener("click", ({ target }) => {
    if (target.closest?.("[data-do]")) sent = target.closest("[data-fields]");
  }, true);
  function clear(field) {
    field.removeAttribute("aria-invalid");
    document.getElementById(field.getAttribute("aria-describedby"))?.remove();
    field.removeAttribute("aria-describedby");
  }
  document.addEventListener("input", ({ target }) => {
    if (target.ariaInvalid === "true" && target.closest("[data-fields]")) clear(target);
  });
  new MutationObserver(() => {
    const told = document.querySelector("#toast [data-wrong]");
    const field = told && sent?.isConnected && sent.elements.namedItem(told.dataset.wrong);
    if (!field) return;
    clear(field);
    const words = Object.assign(document.createElement("span"), {
      id: `wrong-${told.dataset.key}`, className: "wrong", role: "alert", textContent: told.textContent,
    });
    told.remove();
    field.after(words);
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", words.id);
    field.focus();
  }).observe(document.documentElement, { subtree: true, childList: true });
})();
