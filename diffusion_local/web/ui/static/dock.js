// Create's dock (tab_create.py): Enter generates, groups stay open, the size in pixels, the strip's chosen picture, weights.
window.diffusionLocalDock = (() => {
  const GROUPS = "diffusion-local-groups";
  const ENTER = "diffusion-local-enter"; // "newline": Enter is a new line, Ctrl+Enter generates
  const OPEN = ["group-sampling"];
  const stored = () => {
    try {
      return JSON.parse(localStorage.getItem(GROUPS)) ?? OPEN;
    } catch {
      return OPEN;
    }
  };
  const input = (id) => document.querySelector(`#${id} :is(textarea, input)`);
  const write = (field, value) => {
    field.value = value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // -- Enter. An input method uses it to take what is composed; Safari says so by the key code alone.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return;
    if (!event.target.closest?.("#early, #prompt, #negative, #count, #seed") || event.altKey) return;
    if (event.shiftKey) return; // a new line
    const chord = event.ctrlKey || event.metaKey;
    if (!chord && localStorage.getItem(ENTER) === "newline") return;
    if (!chord && document.querySelector("#suggestions:not([hidden]) [aria-selected=true]")) return; // takes the suggestion
    event.preventDefault();
    event.stopPropagation();
    if (event.target.closest("#early")) window.diffusionLocalEarly.press();
    else document.getElementById("generate")?.click();
  }, true);

  // Gradio's own meaning of Shift+Enter is to submit.
  document.addEventListener("keypress", (event) => {
    if (event.key === "Enter" && event.target.closest?.("#prompt, #negative")) event.stopPropagation();
  }, true);

  // -- the buttons of the seed show a sign; their words become tips
  function nameSeedButtons() {
    for (const button of document.querySelectorAll("#seed-row button")) button.title ||= button.textContent.trim();
  }

  // -- groups of settings
  const groups = () => [...document.querySelectorAll("#more > [id^=group-], #more [id^=group-].block")];
  const isOpen = (group) => group.querySelector(":scope > button")?.classList.contains("open");
  document.addEventListener("click", ({ target }) => {
    if (!target.closest?.("#more [id^=group-] > button")) return;
    requestAnimationFrame(() => setTimeout(() => {
      localStorage.setItem(GROUPS, JSON.stringify(groups().filter(isOpen).map(({ id }) => id)));
    }, 50));
  });
  function restoreGroups() {
    const open = stored();
    for (const group of groups())
      if (isOpen(group) !== open.includes(group.id)) group.querySelector(":scope > button")?.click();
  }

  // A closed group in which something is set carries a mark. `initial`: (group, value without a choice) of each field.
  const written = (value) => String(value ?? "");
  function mark(initial, values) {
    const set = new Set(initial.filter(([, first], at) => written(first) !== written(values[at])).map(([group]) => group));
    for (const group of new Set(initial.map(([name]) => name))) {
      const button = document.querySelector(`#group-${group} > button`);
      if (!button) continue;
      button.toggleAttribute("data-set", set.has(group));
      button.title = set.has(group) ? window.diffusionLocalWords.group_set : "";
    }
  }

  // -- the picture of the strip
  function choose(id) {
    const field = input("at");
    if (field && field.value !== id) write(field, id);
  }
  document.addEventListener("click", ({ target }) => {
    const shot = target.closest?.(".shot[data-at]");
    if (!shot) return;
    for (const each of document.querySelectorAll(".shot[aria-current=true]")) each.setAttribute("aria-current", "false");
    shot.setAttribute("aria-current", "true");
    choose(shot.dataset.at);
  });

  // -- the settings' sheet of a phone. Back closes it, so it has an entry in the history while it is open.
  const root = document.documentElement;
  function sheet(on) {
    if (root.classList.contains("with-sheet") === on) return;
    root.classList.toggle("with-sheet", on);
    if (on) history.pushState({ sheet: true }, "");
    else setTimeout(() => { if (history.state?.sheet) history.back(); }); // a link that closed it has taken over the entry
  }
  window.addEventListener("popstate", () => root.classList.remove("with-sheet"));
  document.addEventListener("click", ({ target }) => {
    if (target.closest?.("#tokens [data-sheet]")) sheet(!root.classList.contains("with-sheet"));
    else if (!target.closest?.("#dock, dialog, .overlay, .option-list")) sheet(false);
  });
  document.addEventListener("keydown", ({ key, isComposing }) => {
    if (key !== "Escape" || isComposing || document.querySelector("dialog[open], .overlay, #prompt-popup:not([hidden])")) return;
    sheet(false);
  });

  // -- a prompt's tokens, as the chosen model's text encoder counts them
  let counting = 0;
  function askForCount() {
    clearTimeout(counting);
    counting = setTimeout(() => write(input("recount"), String(Date.now())), 400);
  }
  function count() {
    const out = document.querySelector("#tokens .tokens");
    if (!out) return;
    const [told, words = ""] = (input("prompt")?.value ? input("token-count")?.value ?? "" : "").split("\t");
    const [number, limit] = told.split("/").map(Number);
    if (out.textContent !== told) out.textContent = told;
    const unknown = document.querySelector("#tokens .unknown");
    const line = words && window.diffusionLocalWords.unknown.replace("{}", words);
    if (unknown.textContent !== line) unknown.textContent = unknown.title = line;
    out.classList.toggle("over", number > limit);
    out.title = window.diffusionLocalWords.tokens;
  }
  setInterval(count, 500); // Gradio sets values without an event

  // -- Ctrl+Up and Ctrl+Down weigh what is selected, or the word at the cursor: (word:1.1)
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
    const field = event.target;
    if (!field.closest?.("#prompt, #negative") || field.tagName !== "TEXTAREA" && field.tagName !== "INPUT") return;
    event.preventDefault();
    let [from, to] = [field.selectionStart, field.selectionEnd];
    const text = field.value;
    if (from === to) {
      while (from > 0 && /[^\s,()]/.test(text[from - 1])) from -= 1;
      while (to < text.length && /[^\s,()]/.test(text[to])) to += 1;
    }
    const around = text.slice(0, from).endsWith("(") ? text.slice(to).match(/^:(\d*\.?\d+)\)/) : null;
    const own = text.slice(from, to).match(/^\((.*):(\d*\.?\d+)\)$/s);
    let word = text.slice(from, to);
    let weight = 1;
    if (around) {
      weight = Number(around[1]);
      from -= 1;
      to += around[0].length;
    } else if (own) [, word, weight] = [own[0], own[1], Number(own[2])];
    if (word.includes(":")) word = word.split(":")[0]; // the cursor stands in the weight itself
    if (!word.trim()) return;
    weight = Math.round((weight + (event.key === "ArrowUp" ? 0.1 : -0.1)) * 10) / 10;
    if (weight < 0.1 || weight > 2) return;
    const fresh = weight === 1 ? word : `(${word}:${weight})`;
    write(field, text.slice(0, from) + fresh + text.slice(to));
    const start = from + (weight === 1 ? 0 : 1);
    field.setSelectionRange(start, start + word.length);
  });

  // -- what was typed wrong is no longer told once it is changed
  document.addEventListener("input", ({ target }) => {
    if (target.closest?.("#prompt")) count();
    if (!target.closest?.("#dock")) return;
    for (const notice of document.querySelectorAll("#told .notice[data-field]")) {
      const field = document.getElementById(notice.dataset.field);
      if (field?.contains(target)) notice.remove();
    }
    markWrong();
  });
  // Of a list of pictures, the field of one row.
  function fieldOf({ dataset: { field, entry, part } }) {
    const list = document.querySelector(`#${field} .picture-list ul`);
    return list ? list.children[Number(entry)]?.querySelector(`[data-part="${part}"]`) : input(field);
  }
  function markWrong() {
    const wrong = new Set([...document.querySelectorAll("#told .notice[data-field]")].map(fieldOf));
    for (const each of document.querySelectorAll("#dock [aria-invalid=true]")) if (!wrong.has(each)) each.removeAttribute("aria-invalid");
    for (const each of wrong) if (each && each.ariaInvalid !== "true") each.ariaInvalid = "true";
  }
  new MutationObserver((all) => {
    if (all.some(({ target }) => target.closest?.("#told"))) markWrong();
  }).observe(document.documentElement, { subtree: true, childList: true });

  let started = false;
  return {
    choose, sheet, mark,
    // The form has changed, also by the server.
    show() {
      requestAnimationFrame(() => {
        count();
        if (!started && groups().length) {
          started = true;
          restoreGroups();
          nameSeedButtons();
          const sheet = document.querySelector("[data-sheet]");
          if (sheet) sheet.ariaLabel = sheet.title = window.diffusionLocalWords.settings;
          const generate = document.getElementById("generate");
          if (generate) generate.title = localStorage.getItem(ENTER) === "newline" ? "Ctrl+⏎" : "⏎";
        }
      });
    },
    recount: askForCount,
    pressed(prompt) {
      choose("");
      sheet(false);
      window.diffusionLocalPrompts?.remember(prompt);
    },
  };
})();

// What Enter does, chosen in the dialog of the shortcuts and in Settings.
document.addEventListener("change", ({ target }) => {
  if (target.matches?.("[data-enter]")) localStorage.setItem("diffusion-local-enter", target.checked ? "newline" : "");
});
new MutationObserver(() => {
  for (const box of document.querySelectorAll("[data-enter]")) {
    const on = localStorage.getItem("diffusion-local-enter") === "newline";
    if (box.checked !== on) box.checked = on;
  }
}).observe(document.documentElement, { subtree: true, childList: true });
