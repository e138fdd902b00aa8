// The list of LoRAs (templates/loras.html): the form's field is one text, "name:weight, ..."; rows with sliders edit it. A
// click adds a trigger word to the prompt.
(() => {
  const input = () => document.querySelector("#field-loras :is(textarea, input)");
  const frame = () => document.querySelector("#loras .loras");
  const list = () => frame()?.querySelector("ul");
  const offered = (name) => [...document.querySelectorAll("#loras [data-lora]")].find((each) => each.dataset.lora === name);
  let shown = null;
  const read = (text) => text.split(",").map((each) => each.trim()).filter(Boolean).map((each) => {
    const colon = each.lastIndexOf(":");
    return colon < 0 ? [each, 1] : [each.slice(0, colon), Number(each.slice(colon + 1))];
  });
  const write = (rows) => {
    shown = rows.map(([name, weight]) => `${name}:${weight}`).join(", ");
    const field = input();
    field.value = shown;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const rows = () => [...list().children].map((row) => [row.dataset.name, Number(row.querySelector("[type=range]").value)]);
  const make = (tag, values) => Object.assign(document.createElement(tag), values);

  function row([name, weight]) {
    const { weight: label, remove, insert } = frame().dataset;
    const source = offered(name);
    const item = make("li", {});
    item.dataset.name = name;
    const face = source?.querySelector("img, .letter")?.cloneNode(true) ?? make("span", { className: "letter", textContent: name[0] });
    const about = make("span", { className: "about" });
    about.append(make("b", { textContent: source?.querySelector(".name").textContent ?? name, title: name }));
    const words = (source?.dataset.words ?? "").split(", ").filter(Boolean);
    if (words.length) {
      const tags = make("span", { className: "tags" });
      for (const word of words) {
        const button = make("button", { type: "button", textContent: word, title: insert });
        button.addEventListener("click", () => add(word));
        tags.append(button);
      }
      about.append(tags);
    }
    const slider = make("input", { type: "range", min: -1, max: 2, step: 0.05, value: weight });
    slider.setAttribute("aria-label", label.replace("{}", name));
    const number = make("output", { textContent: weight });
    slider.addEventListener("input", () => { number.textContent = slider.value; });
    slider.addEventListener("change", () => write(rows()));
    const away = make("button", { type: "button", className: "act icon", textContent: "✕", title: remove });
    away.setAttribute("aria-label", `${remove}: ${name}`);
    away.addEventListener("click", () => { write(rows().filter(([each]) => each !== name)); show(); });
    item.append(face, about, away, slider, number);
    return item;
  }
  // Appends a trigger word to the prompt, once.
  function add(word) {
    const field = document.querySelector("#prompt :is(textarea, input)");
    if (field.value.toLowerCase().includes(word.toLowerCase())) return;
    field.value = field.value.trim() ? `${field.value.trimEnd().replace(/,$/, "")}, ${word}` : word;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  function show() {
    const text = input()?.value ?? "";
    if (!list() || (text === shown && list().children.length === read(text).length)) return;
    shown = text;
    list().replaceChildren(...read(text).map(row));
    for (const each of document.querySelectorAll("#loras [data-lora]"))
      each.setAttribute("aria-pressed", read(text).some(([name]) => name === each.dataset.lora));
  }
  const soon = () => requestAnimationFrame(() => requestAnimationFrame(show));
  window.diffusionLocalLoras = { show: soon };
  new MutationObserver((all) => { // drawn anew for another model
    if (all.some(({ target }) => target.id === "loras" || target.classList?.contains("live") && target.closest("#loras"))) soon();
  }).observe(document.documentElement, { subtree: true, childList: true });
  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.("[data-lora]");
    if (!button) return;
    const others = rows().filter(([name]) => name !== button.dataset.lora);
    write(others.length < rows().length ? others : [...rows(), [button.dataset.lora, 0.8]]);
    shown = null;
    show();
  });
  document.addEventListener("input", ({ target }) => {
    if (!target.matches?.("[data-lora-search]")) return;
    const words = target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const each of document.querySelectorAll("#loras [data-lora]"))
      each.hidden = !words.every((word) => each.dataset.search.includes(word));
  });
})();
