// Help with prompts (prompt_help.TOOLS): suggestions while typing, history and presets of this browser, rewriting by a
// language model, and repeated generation.
window.diffusionLocalPrompts = (() => {
  const HISTORY = "diffusion-local-prompts"; // newest first
  const PRESETS = "diffusion-local-presets"; // name -> values of the form by field
  const MOST = 200;
  const SHOWN = 8;
  const words = window.diffusionLocalWords;
  const LABELS = { history: words.history, presets: words.presets, repeat: words.repeat, helper: words.helper };
  const NAMES = { history: words.tool_history, presets: words.tool_presets, repeat: words.tool_repeat, helper: words.tool_helper };
  const field = () => document.querySelector("#prompt :is(textarea, input)");
  const hidden = (id) => document.querySelector(`#${id} :is(textarea, input)`);
  const read = (key, otherwise) => {
    try {
      return JSON.parse(localStorage.getItem(key)) ?? otherwise;
    } catch {
      return otherwise;
    }
  };
  function put(input, value) {
    input.value = value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }
  const make = (tag, values, ...inside) => {
    const made = Object.assign(document.createElement(tag), values);
    made.append(...inside);
    return made;
  };
  function vocabulary() {
    try {
      return JSON.parse(hidden("vocabulary")?.value || "{}");
    } catch {
      return {};
    }
  }

  // -- suggestions
  let [found, at] = [[], -1];
  const list = () => document.getElementById("suggestions") ?? (() => {
    const made = make("ul", { id: "suggestions", hidden: true, role: "listbox", ariaLabel: words.suggestions });
    document.body.append(made);
    made.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the prompt keeps the focus
      const item = event.target.closest("[role=option]");
      if (item) take(Number(item.dataset.at));
    });
    return made;
  })();
  // The word being typed: (start, kind, text).
  function typed(input) {
    const before = input.value.slice(0, input.selectionStart);
    const lora = before.match(/<(?:lora:)?([^<>:\s]*)$/);
    if (lora) return { from: before.length - lora[0].length, kind: "loras", text: lora[1] };
    const wildcard = before.match(/__([\w\/-]*)$/);
    if (wildcard && (before.match(/__/g).length % 2)) return { from: before.length - wildcard[0].length, kind: "wildcards", text: wildcard[1] };
    const part = before.match(/[^,\n(|{}<>]*$/)[0].trimStart();
    return part.length >= 2 ? { from: before.length - part.length, kind: "tags", text: part } : null;
  }
  function matches({ kind, text }) {
    const known = vocabulary();
    const all = kind === "tags"
      ? [...(known.embeddings ?? []).map((name) => [name, name, words.embedding]), ...(known.tags ?? []).map((tag) => [tag, tag, ""])]
      : (known[kind] ?? []).map((name) => [kind === "loras" ? `<lora:${name}:0.8>` : `__${name}__`, name, kind === "loras" ? "LoRA" : words.wildcard]);
    const wanted = text.toLowerCase();
    const fits = all.filter(([, name]) => name.toLowerCase().includes(wanted) && name.toLowerCase() !== wanted);
    return fits.sort(([, one], [, other]) => !one.toLowerCase().startsWith(wanted) - !other.toLowerCase().startsWith(wanted)).slice(0, SHOWN);
  }
  function suggest() {
    const input = field();
    const what = document.activeElement === input && input.selectionStart === input.selectionEnd ? typed(input) : null;
    found = what ? matches(what) : [];
    at = -1;
    const box = list();
    box.hidden = !found.length;
    input.setAttribute("aria-autocomplete", "list");
    input.setAttribute("aria-controls", "suggestions");
    if (box.hidden) return input.removeAttribute("aria-activedescendant");
    box.replaceChildren(...found.map(([, name, kind], place) => {
      const item = make("li", { id: `suggestion-${place}`, role: "option" }, make("span", { textContent: name }), make("small", { textContent: kind }));
      item.dataset.at = place;
      item.setAttribute("aria-selected", "false");
      return item;
    }));
    // Beside the prompt, or above it where there is no room: never over Generate.
    const { left, right, top, width } = input.getBoundingClientRect();
    Object.assign(box.style, window.innerWidth - right > 320
      ? { left: `${right + 8}px`, top: `${top}px`, bottom: "auto", width: "300px" }
      : { left: `${left}px`, top: "auto", bottom: `${window.innerHeight - top + 4}px`, width: `${width}px` });
  }
  function select(step) {
    at = (at + step + found.length + (at < 0 && step < 0 ? 1 : 0)) % found.length;
    for (const item of list().children) item.setAttribute("aria-selected", Number(item.dataset.at) === at);
    field().setAttribute("aria-activedescendant", `suggestion-${at}`);
  }
  function take(place) {
    const input = field();
    const { from } = typed(input);
    const after = input.value.slice(input.selectionStart);
    const text = found[place][0];
    put(input, input.value.slice(0, from) + text + after);
    input.setSelectionRange(from + text.length, from + text.length);
    close();
  }
  function close() {
    found = [];
    list().hidden = true;
  }
  document.addEventListener("input", ({ target, isComposing }) => { if (target === field() && !isComposing) suggest(); });
  document.addEventListener("focusout", ({ target }) => { if (target === field()) close(); });
  document.addEventListener("keydown", (event) => {
    if (event.target !== field() || event.isComposing) return;
    const chord = event.ctrlKey || event.metaKey || event.shiftKey;
    if (event.altKey && ["ArrowUp", "ArrowDown"].includes(event.key)) walk(event.key === "ArrowUp" ? 1 : -1);
    else if (!found.length || chord || event.altKey) return;
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") select(event.key === "ArrowDown" ? 1 : -1);
    else if (event.key === "Tab") take(Math.max(0, at));
    else if (event.key === "Enter" && at >= 0) take(at);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }, true);

  // -- the history
  const history = () => read(HISTORY, []);
  let place = -1; // while one walks
  let draft = "";
  function walk(step) {
    const all = history();
    if (place < 0) draft = field().value;
    place = Math.max(-1, Math.min(all.length - 1, place + step));
    put(field(), place < 0 ? draft : all[place]);
    close();
  }
  function remember(prompt) {
    const text = (prompt ?? "").trim();
    place = -1;
    if (text) localStorage.setItem(HISTORY, JSON.stringify([text, ...history().filter((each) => each !== text)].slice(0, MOST)));
  }

  // -- presets: the whole form but the prompt's pictures
  const OUT = ["source", "mask", "kind"];
  function current() {
    const { fields = [] } = vocabulary();
    const values = JSON.parse(sessionStorage.getItem("diffusion-local-draft") ?? "[]"); // page.js
    return Object.fromEntries(fields.map((name, index) => [name, values[index]]).filter(([name, value]) => !OUT.includes(name) && value !== undefined));
  }
  async function keep() {
    const name = await window.diffusionLocalAsk(words.preset_name, { answer: "", label: words.save });
    if (!name?.trim()) return;
    localStorage.setItem(PRESETS, JSON.stringify({ ...read(PRESETS, {}), [name.trim().slice(0, 60)]: current() }));
  }
  const use = (name) => fillForm(read(PRESETS, {})[name] ?? {});
  // Fields of the form by name, also of those that are folded away, which are not in the page.
  function fillForm(values) {
    const wanted = JSON.stringify(values);
    const input = hidden("preset");
    put(input, input.value === wanted ? `${wanted} ` : wanted);
  }

  // -- the popup of both
  const popup = () => document.getElementById("prompt-popup") ?? (() => {
    const made = make("div", { id: "prompt-popup", hidden: true, role: "dialog" });
    document.body.append(made);
    return made;
  })();
  let opened = null;
  function shut(focus = true) {
    if (!opened) return;
    popup().hidden = true;
    opened.setAttribute("aria-expanded", "false");
    if (focus) opened.focus();
    opened = null;
  }
  function line(text, act, forget) {
    const item = make("li", {}, make("button", { type: "button", className: "act", textContent: text, title: text, onclick: () => { act(); shut(false); field().focus(); } }));
    const away = make("button", { type: "button", className: "act icon", textContent: "✕", title: words.forget, onclick: (event) => { event.stopPropagation(); forget(); fill(); } });
    away.setAttribute("aria-label", `${words.forget}: ${text}`);
    item.append(away);
    return item;
  }
  function fill(filter = "") {
    const box = popup();
    const what = opened.dataset.prompts;
    box.setAttribute("aria-label", LABELS[what]);
    if (what === "helper") return offerHelp(box);
    const names = what === "history" ? history() : Object.keys(read(PRESETS, {}));
    const shown = names.filter((each) => each.toLowerCase().includes(filter.toLowerCase())).slice(0, 50);
    const rows = shown.map((each) => what === "history"
      ? line(each, () => { put(field(), each); keepOriginal(""); }, () => localStorage.setItem(HISTORY, JSON.stringify(history().filter((other) => other !== each))))
      : line(each, () => use(each), () => {
        const { [each]: gone, ...rest } = read(PRESETS, {});
        localStorage.setItem(PRESETS, JSON.stringify(rest));
      }));
    const items = make("ul", {}, ...rows);
    const none = rows.length ? [] : [make("p", { className: "quiet", textContent: what === "history" ? words.no_history : words.no_presets })];
    const save = what === "presets" ? [make("button", { type: "button", className: "act", textContent: words.save_preset, onclick: () => { shut(false); keep(); } })] : [];
    const search = names.length > 8 || filter ? [make("input", { type: "search", className: "field", value: filter, placeholder: words.search, ariaLabel: words.search, oninput: ({ target }) => { fill(target.value); popup().querySelector("input").focus(); } })] : [];
    box.replaceChildren(...search, ...none, items, ...save);
  }
  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.("[data-prompts]");
    if (button?.dataset.prompts === "repeat") return repeat(button.getAttribute("aria-pressed") !== "true");
    if (button && button !== opened) {
      shut(false);
      opened = button;
      button.setAttribute("aria-expanded", "true");
      fill();
      popup().hidden = false;
      const { left, bottom } = document.querySelector("#composer").getBoundingClientRect();
      const { top: over, bottom: under } = button.getBoundingClientRect();
      const above = over > window.innerHeight / 2; // on a phone the prompt stands at the bottom
      Object.assign(popup().style, {
        left: `${left + 12}px`,
        top: above ? "auto" : `${Math.min(under + 4, bottom)}px`,
        bottom: above ? `${window.innerHeight - over + 4}px` : "auto",
      });
      popup().querySelector("input, button")?.focus();
    } else if (button || opened && !target.closest?.("#prompt-popup, #asking")) shut(!!button);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !opened || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    shut();
  });

  // -- a language model changes the prompt, if the server has one; the prompt before that stays as the field `original`
  const TASKS = {
    rewrite: [words.helper_rewrite, {}],
    translate: [words.helper_translate, { language: "English" }],
    vary: [words.helper_vary, { count: 4 }],
  };
  let [offered, asking, failure] = [[], false, ""];
  const original = () => hidden("field-original")?.value ?? "";
  function keepOriginal(text) {
    const input = hidden("field-original");
    if (input && input.value !== text) put(input, text);
    markHelper();
  }
  function markHelper() {
    const button = document.querySelector("[data-prompts=helper]");
    if (!button) return;
    const away = !vocabulary().helper;
    if (button.hidden !== away) button.hidden = away;
    button.classList.toggle("on", !!original());
  }
  function useHelped(text) {
    const before = original() || field().value;
    put(field(), text);
    keepOriginal(before);
    offered = [];
    shut(false);
    field().focus();
  }
  async function help(task) {
    const prompt = field().value;
    [offered, asking, failure] = [[], true, ""];
    if (opened) fill();
    try {
      const answer = await fetch(`${window.diffusionLocalRoot}/api/v1/prompts/help`, {
        method: "POST", headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ prompt, task, ...TASKS[task][1] }),
      });
      const said = await answer.json();
      if (!answer.ok) throw new Error(said.error?.message ?? words.helper_away);
      // Of several the person chooses; and nothing is overwritten that was typed meanwhile.
      if (said.prompts.length === 1 && field().value === prompt && opened?.dataset.prompts === "helper") useHelped(said.prompts[0]);
      else offered = said.prompts;
    } catch (error) {
      failure = error instanceof TypeError || error instanceof SyntaxError ? words.helper_away : error.message;
    }
    asking = false;
    if (opened?.dataset.prompts === "helper") fill();
  }
  function offerHelp(box) {
    // A button that is drawn anew as it is pressed would count as one outside of the popup.
    const button = (textContent, act, disabled = false, className = "act") =>
      make("button", { type: "button", className, textContent, disabled, onclick: (event) => { event.stopPropagation(); act(); } });
    const tasks = Object.entries(TASKS).map(([task, [name]]) => button(name, () => help(task), asking || !field().value.trim()));
    const said = asking ? words.helper_asking : failure;
    const told = make("p", { className: "quiet", textContent: said, hidden: !said });
    told.setAttribute("role", "status");
    const before = original();
    const undo = before ? [
      make("p", { className: "quiet original", textContent: `${words.helper_original} ${before}`, title: before }),
      button(words.helper_undo, () => { put(field(), before); keepOriginal(""); shut(false); field().focus(); }),
    ] : [];
    const rows = offered.map((each) => make("li", {}, button(each, () => useHelped(each), false, "act whole")));
    box.replaceChildren(make("div", { className: "acts" }, ...tasks), told, make("ul", { hidden: !rows.length }, ...rows), ...undo);
    if (!box.contains(document.activeElement)) box.querySelector("button:not([disabled])")?.focus();
  }
  // A prompt written from scratch is not derived from the previous one.
  document.addEventListener("input", ({ target }) => {
    if (target === field() && !target.value.trim()) keepOriginal("");
    if (target === hidden("vocabulary") || target === hidden("field-original")) markHelper();
  });
  setInterval(markHelper, 500); // Gradio sets values without an event

  // -- repeat until stopped: submit again whenever all jobs are done
  let repeating = false;
  let pressed = 0; // when; the queue takes a moment to show it
  function repeat(on) {
    repeating = on;
    const button = document.querySelector("[data-prompts=repeat]");
    button.setAttribute("aria-pressed", on);
    button.title = button.ariaLabel = on ? words.repeat_stop : words.repeat;
    const seed = hidden("seed");
    if (on && seed?.value) put(seed, ""); // the same picture again would help nobody
    if (on) again();
  }
  function again() {
    if (!repeating || document.querySelector("html.studio-away")) return;
    if (document.querySelector("#told .notice.bad")) return repeat(false);
    const now = document.querySelector("#now [data-work]");
    if (!now || Number(now.dataset.work) > 0 || Date.now() - pressed < 3000) return;
    pressed = Date.now();
    document.getElementById("generate")?.click();
  }
  setInterval(again, 1000);

  function label() {
    for (const button of document.querySelectorAll("[data-prompts]")) {
      if (button.title) continue;
      const name = button.dataset.prompts;
      button.title = button.ariaLabel = LABELS[name];
      button.append(make("span", { textContent: NAMES[name] }));
    }
  }
  new MutationObserver(label).observe(document.documentElement, { subtree: true, childList: true });
  return { remember, fill: fillForm };
})();
