// The list of controls (view_source.controls): one text "IMAGE:type=canny:..., ..." is the field, rows show and set it.
(() => {
  const root = window.diffusionLocalRoot;
  const words = window.diffusionLocalWords;
  const input = () => document.querySelector("#field-controls :is(textarea, input)");
  const panel = () => document.querySelector("#controls .control-list");
  const list = () => panel()?.querySelector("ul");
  const NUMBERS = { weight: 1, start: 0, end: 1 };
  let shown = null;

  const read = (text) => text.split(",").map((each) => each.trim()).filter(Boolean).map((each) => {
    const [image, ...pairs] = each.split(":");
    return Object.fromEntries([["image", image], ...pairs.map((pair) => {
      const equals = pair.indexOf("=");
      return [pair.slice(0, equals), decodeURIComponent(pair.slice(equals + 1))];
    })]);
  });
  const written = ({ image, ...values }) => [image, ...Object.entries(values)
    .filter(([name, value]) => name !== "seen" && value !== "" && Number(value) !== NUMBERS[name])
    .map(([name, value]) => `${name}=${encodeURIComponent(value)}`)].join(":");
  function write(rows) {
    shown = rows.map(written).join(", ");
    const field = input();
    field.value = shown;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  const values = (row) => ({
    image: row.dataset.image,
    ...Object.fromEntries([...row.querySelectorAll("[data-part]")].map((each) => [each.dataset.part, each.value])),
  });
  const rows = () => [...list().children].map(values);

  // What the ControlNet will see, in the size of the picture.
  async function preview(row) {
    const side = (name) => Number(document.querySelector(`#field-${name} input`)?.value) || 512;
    const { image, type } = values(row);
    const told = row.querySelector("[data-told]");
    try {
      const answer = await fetch(`${root}/api/v1/sources/control`, {
        method: "POST", headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ image, type: type || "none", width: side("width"), height: side("height") }),
      });
      const said = await answer.json();
      if (!answer.ok) throw new Error(said.error?.message ?? words.not_arrived);
      row.querySelector("img").src = `${root}${said.url}`;
      told.textContent = "";
    } catch (error) {
      told.textContent = error instanceof TypeError ? words.not_arrived : error.message;
    }
  }

  function row(given) {
    const item = panel().querySelector("template").content.firstElementChild.cloneNode(true);
    item.dataset.image = given.image;
    item.querySelector("img").src = `${root}/sources/${given.image}.png`;
    for (const part of item.querySelectorAll("[data-part]")) {
      const value = given[part.dataset.part] ?? NUMBERS[part.dataset.part] ?? "";
      if (part.matches("select") && ![...part.options].some((each) => each.value === value)) {
        part.add(new Option(value, value));
      }
      part.value = value;
      part.addEventListener("change", () => {
        write(rows());
        if (part.dataset.part === "type") preview(item);
      });
    }
    item.querySelector("[data-control=look]").addEventListener("click", () => preview(item));
    item.querySelector("[data-control=remove]").addEventListener("click", () => {
      write([...list().children].filter((each) => each !== item).map(values));
      show();
    });
    if (given.type && given.type !== "none") preview(item);
    return item;
  }
  function show() {
    const text = input()?.value ?? "";
    if (!list() || (text === shown && list().children.length === read(text).length)) return;
    shown = text;
    list().replaceChildren(...read(text).map(row));
  }
  async function add(file) {
    const told = panel().querySelector("[data-adding]");
    told.textContent = words.uploading;
    try {
      const answer = await fetch(`${root}/api/v1/sources?field=controls`, {
        method: "POST", body: file, headers: { "Content-Type": file.type || "application/octet-stream" },
      });
      const said = await answer.json();
      if (!answer.ok) throw new Error(said.error?.message ?? words.not_arrived);
      write([...rows(), { image: said.id, type: "canny" }]);
      told.textContent = "";
      show();
    } catch (error) {
      told.textContent = error instanceof TypeError ? words.not_arrived : error.message;
    }
  }
  window.diffusionLocalControls = { show: () => requestAnimationFrame(() => requestAnimationFrame(show)) };
  document.addEventListener("click", ({ target }) => {
    if (target.closest?.("#controls [data-control=add]")) panel().querySelector("[data-file]").click();
  });
  document.addEventListener("change", ({ target }) => {
    if (!target.matches?.("#controls [data-file]") || !target.files[0]) return;
    add(target.files[0]);
    target.value = "";
  });
})();
