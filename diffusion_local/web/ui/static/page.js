// Set up once per page: the keyboard, and state that survives a reload.

// Keys of the page; those of a dialog are its own (live.js, viewer.js). All of them are listed under "?" (view_help.py).
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:not([type=radio], [type=checkbox], [type=range]), textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (document.querySelector("[role=dialog], dialog[open], .menu[open]")) return;
  if (event.key === "?") document.querySelector("[data-do=keys]")?.click();
  else if (event.key === "/") window.diffusionLocalRouter.search();
  else if (event.key.toLowerCase() === "q") window.diffusionLocalDrawer.toggle();
  else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    const step = event.key === "ArrowRight" ? 1 : -1;
    const views = document.activeElement.closest("#views, #tabbar");
    if (views) {
      const links = [...views.querySelectorAll("a")];
      links[(links.indexOf(document.activeElement) + step + links.length) % links.length]?.focus();
      event.preventDefault();
      return;
    }
    if (document.activeElement.closest("[role=tablist], [role=radiogroup], [type=range], [type=radio]")) return;
    const links = [...document.querySelectorAll("a.open[data-id], .shot[data-at]")].filter((link) => link.offsetParent);
    const at = links.indexOf(document.activeElement);
    links[at < 0 ? 0 : Math.max(0, Math.min(links.length - 1, at + step))]?.focus();
  } else return;
  event.preventDefault();
});

// Gradio opens a list again at the Tab that leaves it, and then keeps it open over the fields below.
document.addEventListener("focusout", ({ target }) => {
  if (!target.matches?.("input[role=combobox]")) return;
  setTimeout(() => {
    if (target !== document.activeElement && target.ariaExpanded === "true") target.dispatchEvent(new FocusEvent("blur"));
  }, 50);
});

// Copies a prompt, or with `data-address` an address of the page; over plain HTTP to another machine there is no
// navigator.clipboard. The button says so for a moment; one with a sign in place of words shows another sign.
(() => {
  const faces = new WeakMap(); // what a button shows otherwise
  async function copy(text, button) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const area = document.createElement("textarea");
    area.value = text;
    button.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  function tell(button, words, sign) {
    const face = button.querySelector("span") ?? button;
    if (!faces.has(button)) faces.set(button, { nodes: [...face.childNodes], label: button.ariaLabel });
    face.replaceChildren(button.matches(".icon") ? sign : words);
    if (button.ariaLabel) button.ariaLabel = words;
    setTimeout(() => {
      if (!faces.has(button)) return;
      const { nodes, label } = faces.get(button);
      faces.delete(button);
      face.replaceChildren(...nodes);
      button.ariaLabel = label;
    }, 1500);
  }
  document.addEventListener("click", async ({ target }) => {
    const button = target.closest?.("[data-copy]");
    if (!button) return;
    const said = button.dataset.copy;
    const text = button.dataset.address === undefined ? said : new URL(said, location.origin).href;
    try {
      await copy(text, button);
      tell(button, window.diffusionLocalWords.copied, "✓");
    } catch {
      tell(button, window.diffusionLocalWords.not_copied, "✗");
    }
  });
})();

// The tab's title tells how far it is; and if asked to, the browser tells when all is done.
(() => {
  const TITLE = "diffusion-local";
  const BELL = "diffusion-local-bell";
  let work = 0;
  const rings = () => localStorage.getItem(BELL) && window.Notification?.permission === "granted";
  function look() {
    const now = document.querySelector("#now [data-title]");
    if (now) {
      const title = now.dataset.title ? `${now.dataset.title} · ${TITLE}` : TITLE;
      if (document.title !== title) document.title = title;
      const left = Number(now.dataset.work);
      if (work > 0 && left === 0 && document.hidden && rings())
        new Notification(TITLE, { body: window.diffusionLocalWords.all_done, icon: "assets/icons/mark.svg", tag: TITLE });
      work = left;
    }
    for (const bell of document.querySelectorAll("[data-bell]")) {
      if (bell.hidden === !!window.Notification) bell.hidden = !window.Notification;
      if (bell.getAttribute("aria-pressed") !== String(!!rings())) bell.setAttribute("aria-pressed", !!rings());
    }
  }
  document.addEventListener("click", async ({ target }) => {
    if (!target.closest?.("[data-bell]")) return;
    if (rings()) localStorage.removeItem(BELL);
    else if ((await Notification.requestPermission()) === "granted") localStorage.setItem(BELL, "1");
    look();
  });
  new MutationObserver(look).observe(document.documentElement, {
    subtree: true, childList: true, attributes: true, attributeFilter: ["data-title", "data-work", "hidden"],
  });
})();

// Another language: stored in a cookie, so that the server uses it too.
document.addEventListener("change", ({ target }) => {
  if (!target.matches?.("[data-language]")) return;
  document.cookie = `language=${target.value}; path=/; max-age=31536000; SameSite=Lax`;
  location.reload();
});

// Light or dark theme, stored in this browser; page_html.py applies it before the page is drawn.
document.addEventListener("change", ({ target }) => {
  if (!target.matches?.("[data-theme]")) return;
  if (target.value) localStorage.setItem("diffusion-local-theme", target.value);
  else localStorage.removeItem("diffusion-local-theme");
  location.reload();
});
(() => {
  const show = () => {
    const kept = localStorage.getItem("diffusion-local-theme") ?? "";
    for (const select of document.querySelectorAll("[data-theme]")) if (select.value !== kept) select.value = kept;
  };
  new MutationObserver(show).observe(document.documentElement, { subtree: true, childList: true });
})();

// Called by the page's wiring (page.py, tab_create.py).
window.diffusionLocal = (() => {
  const DRAFT = "diffusion-local-draft"; // of this tab: the form
  const PRESSED = "diffusion-local-pressed"; // of this tab: how many presses have no answer yet
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
  const draft = () => {
    const kept = parsed(sessionStorage.getItem(DRAFT));
    return Array.isArray(kept) ? kept : null;
  };
  const lost = unanswered() > 0; // presses of this page before it was reloaded, which nobody will answer any more
  sessionStorage.removeItem(PRESSED);
  // Counted before Gradio sees the press: even an event that Gradio drops is told after a reload.
  document.addEventListener("click", ({ target }) => {
    if (target.closest?.("#generate")) sessionStorage.setItem(PRESSED, unanswered() + 1);
  }, true);

  return {
    draft,
    // After a load: the form, as it was, and the batches of this browser.
    restore(told, mine, linked, ...form) {
      const kept = draft();
      restored = true;
      window.diffusionLocalSource.show();
      window.diffusionLocalLoras.show();
      window.diffusionLocalPictures.show();
      window.diffusionLocalRegions.show();
      window.diffusionLocalDock.show();
      const asked = window.diffusionLocalRouter.picture() ?? linked; // a link to a picture
      const values = window.diffusionLocalEarly.restored(kept?.length === form.length ? kept : form);
      const notice = `<div class="notice bad" role="alert"><span>${words.lost_press}</span></div>`;
      return [lost ? notice : told, localStorage.getItem(BATCHES) ?? mine, asked, ...values];
    },
    keep(...form) {
      if (restored) sessionStorage.setItem(DRAFT, JSON.stringify(form));
      window.diffusionLocalSource.show();
      window.diffusionLocalLoras.show();
      window.diffusionLocalPictures.show();
      window.diffusionLocalRegions.show();
      window.diffusionLocalDock.show();
    },
    // The key makes one batch of a press that is sent more than once (calls.js).
    press(_, ...form) {
      window.diffusionLocalDock.pressed(form[0]);
      return [window.diffusionLocalCalls.key(), ...form];
    },
    answered() {
      sessionStorage.setItem(PRESSED, Math.max(0, unanswered() - 1));
    },
    // Adds new batches; here, as several presses may be on their way at once, and in several tabs.
    remember(most, added, mine) {
      if (!added) return mine;
      const all = new Set([...ids(added), ...ids(mine), ...ids(localStorage.getItem(BATCHES))]);
      const kept = [...all].sort().reverse().slice(0, most).join(" ");
      localStorage.setItem(BATCHES, kept);
      return kept;
    },
  };
})();
