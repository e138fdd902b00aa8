// Once for the page: the keyboard, and what outlives a reload.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || !event.target.closest?.("#prompt")) return;
  event.preventDefault();
  document.getElementById("generate")?.click();
});

// Another language: kept in a cookie, so that the server speaks it too.
document.addEventListener("change", ({ target }) => {
  if (!target.matches?.("[data-language]")) return;
  document.cookie = `language=${target.value}; path=/; max-age=31536000; SameSite=Lax`;
  location.reload();
});

// Called by the page's wiring (page.py, tab_create.py).
window.diffusionLocal = (() => {
  const DRAFT = "diffusion-local-draft"; // of this tab: the form
  const PRESSED = "diffusion-local-pressed"; // of this tab: how many presses have no answer yet
  const LOST = "diffusion-local-lost"; // of this tab: a press that failed on its way
  const BATCHES = "diffusion-local-batches"; // of this browser: ids, newest first
  const words = window.diffusionLocalWords; // in the page's language, from the server
  const parsed = (written) => {
    try {
      return JSON.parse(written);
    } catch {
      return null;
    }
  };
  const ids = (written) => (written ?? "").split(" ").filter(Boolean);
  const unanswered = () => Number(sessionStorage.getItem(PRESSED)) || 0;
  let restored = false;

  return {
    // Gradio loads the page anew when a lost server is back: the form, as it was, and the batches of this browser.
    restore(told, mine, ...form) {
      const draft = parsed(sessionStorage.getItem(DRAFT));
      const lost = unanswered() > 0 || sessionStorage.getItem(LOST);
      sessionStorage.removeItem(PRESSED);
      sessionStorage.removeItem(LOST);
      restored = true;
      const fits = Array.isArray(draft) && draft.length === form.length;
      const notice = `<div class="notice bad" role="alert"><span>${words.lost_press}</span></div>`;
      return [lost ? notice : told, localStorage.getItem(BATCHES) ?? mine, ...(fits ? draft : form)];
    },
    keep(...form) {
      if (restored) sessionStorage.setItem(DRAFT, JSON.stringify(form));
    },
    press(...form) {
      sessionStorage.setItem(PRESSED, unanswered() + 1);
      return form;
    },
    answered(arrived) {
      sessionStorage.setItem(PRESSED, Math.max(0, unanswered() - 1));
      if (arrived) sessionStorage.removeItem(LOST);
      else sessionStorage.setItem(LOST, "1");
    },
    // Adds a new batch; here, as several presses may be on their way at once, and in several tabs.
    remember(most, id, mine) {
      if (!id) return mine;
      const all = new Set([id, ...ids(mine), ...ids(localStorage.getItem(BATCHES))]);
      const kept = [...all].sort().reverse().slice(0, most).join(" ");
      localStorage.setItem(BATCHES, kept);
      return kept;
    },
  };
})();
