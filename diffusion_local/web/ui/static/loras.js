// The list of LoRAs (view_source.loras): one text "name:weight, ..." is the field, rows with sliders show it.
(() => {
  const input = () => document.querySelector("#field-loras :is(textarea, input)");
  const list = () => document.querySelector("#loras .loras ul");
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

  function row([name, weight]) {
    const { weight: label, remove } = document.querySelector("#loras .loras").dataset;
    const item = document.createElement("li");
    item.dataset.name = name;
    const said = document.createElement("span");
    said.textContent = name;
    const option = [...document.querySelectorAll("#loras option")].find((each) => each.value === name);
    if (option?.dataset.words) {
      const trigger = document.createElement("small");
      trigger.className = "quiet";
      trigger.textContent = option.dataset.words;
      said.append(trigger);
    }
    const slider = Object.assign(document.createElement("input"), { type: "range", min: -1, max: 2, step: 0.05, value: weight });
    slider.setAttribute("aria-label", label.replace("{}", name));
    const number = document.createElement("output");
    number.textContent = weight;
    slider.addEventListener("input", () => { number.textContent = slider.value; });
    slider.addEventListener("change", () => write(rows()));
    const away = Object.assign(document.createElement("button"), { type: "button", className: "act small", textContent: remove });
    away.addEventListener("click", () => write(rows().filter(([each]) => each !== name)) ?? show());
    item.append(said, slider, number, away);
    return item;
  }
  function show() {
    const text = input()?.value ?? "";
    if (!list() || (text === shown && list().children.length === read(text).length)) return;
    shown = text;
    list().replaceChildren(...read(text).map(row));
  }
  window.diffusionLocalLoras = { show: () => requestAnimationFrame(() => requestAnimationFrame(show)) };
  document.addEventListener("change", ({ target }) => {
    if (!target.matches?.("[data-lora]") || !target.value) return;
    if (!rows().some(([name]) => name === target.value)) write([...rows(), [target.value, 0.8]]);
    target.value = "";
    show();
  });
})();
