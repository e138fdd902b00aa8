// Lists of pictures with settings of their own (controls.html, references.html): one text "IMAGE:name=value:..., ..." is
// the form's field, and rows show and set it.
(() => {
  const root = window.diffusionLocalRoot;
  const words = window.diffusionLocalWords;
  // By option: settings of an added picture, and default numbers that are left out of the text.
  const LISTS = {
    controls: { added: () => ({ type: "canny" }), numbers: { weight: 1, start: 0, end: 1 } },
    references: { added: (panel) => ({ use: panel.dataset.use }), numbers: { weight: 1 } },
  };
  const panelOf = (name) => document.querySelector(`#${name} .picture-list`);
  const field = (name) => document.querySelector(`#field-${name} :is(textarea, input)`);
  const shown = {}; // the text that the rows show, by list
  const told = (panel, text) => { panel.querySelector("[data-adding]").textContent = text; };

  const read = (text) => text.split(",").map((each) => each.trim()).filter(Boolean).map((each) => {
    const [image, ...pairs] = each.split(":");
    return Object.fromEntries([["image", image], ...pairs.map((pair) => {
      const equals = pair.indexOf("=");
      return [pair.slice(0, equals), decodeURIComponent(pair.slice(equals + 1))];
    })]);
  });
  const written = (name) => ({ image, ...values }) => [image, ...Object.entries(values)
    .filter(([part, value]) => part !== "seen" && value !== "" && Number(value) !== LISTS[name].numbers[part])
    .map(([part, value]) => `${part}=${encodeURIComponent(value)}`)].join(":");
  function write(name, rows) {
    shown[name] = rows.map(written(name)).join(", ");
    const input = field(name);
    input.value = shown[name];
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }
  // Values without an element in the row, such as the mask of a reference, are kept.
  const values = (row) => ({
    ...row.given,
    ...Object.fromEntries([...row.querySelectorAll("[data-part]")].map((each) => [each.dataset.part, each.value])),
  });
  const rows = (name) => [...panelOf(name).querySelector("ul").children].map(values);

  // Of an error of the API, whose fields have other names than the form's.
  function withoutField({ message = "", field = "" }) {
    const rest = field && message.startsWith(`${field}: `) ? message.slice(field.length + 2) : message;
    return rest.charAt(0).toUpperCase() + rest.slice(1);
  }
  async function post(path, body, type) {
    try {
      const answer = await fetch(`${root}/api/v1/${path}`, { method: "POST", body, headers: { "Content-Type": type } });
      const said = await answer.json();
      if (!answer.ok) throw new Error(withoutField(said.error ?? {}) || words.not_arrived);
      return said;
    } catch (error) {
      throw error instanceof TypeError ? new Error(words.not_arrived) : error;
    }
  }

  // The preprocessed picture, at the size of the result.
  async function preview(row) {
    const side = (name) => Number(document.querySelector(`#field-${name} input`)?.value) || 512;
    const { image, type } = values(row);
    const body = JSON.stringify({ image, type: type || "none", width: side("width"), height: side("height") });
    const out = row.querySelector("[data-told]");
    try {
      row.querySelector("img").src = `${root}${(await post("sources/control", body, "application/json")).url}`;
      out.textContent = "";
    } catch (error) {
      row.querySelector("img").src = `${root}/sources/${image}.png`; // not the picture of another preprocessor
      out.textContent = error.message;
    }
  }

  function row(name, given) {
    const { numbers } = LISTS[name];
    const item = panelOf(name).querySelector("template").content.firstElementChild.cloneNode(true);
    item.given = given;
    item.querySelector("img").src = `${root}/sources/${given.image}.png`;
    for (const part of item.querySelectorAll("[data-part]")) {
      const value = given[part.dataset.part] ?? numbers[part.dataset.part] ?? part.dataset.usual ?? "";
      if (part.matches("select") && ![...part.options].some((each) => each.value === value)) part.add(new Option(value, value));
      part.value = value;
      part.addEventListener("change", () => {
        write(name, rows(name));
        if (part.dataset.part === "type") preview(item);
      });
    }
    item.querySelector("[data-listed=look]")?.addEventListener("click", () => preview(item));
    item.querySelector("[data-listed=remove]").addEventListener("click", () => {
      item.remove();
      write(name, rows(name));
      panelOf(name).querySelector("[data-listed=add]")?.focus();
    });
    if (given.type && given.type !== "none") preview(item);
    return item;
  }
  function show(name) {
    const list = panelOf(name)?.querySelector("ul");
    const text = field(name)?.value ?? "";
    const found = read(text);
    if (!list || (text === shown[name] && list.children.length === found.length)) return;
    shown[name] = text;
    list.replaceChildren(...found.map((each) => row(name, each)));
  }
  let waits = 0;
  const soon = () => {
    cancelAnimationFrame(waits);
    waits = requestAnimationFrame(() => requestAnimationFrame(() => Object.keys(LISTS).forEach(show)));
  };
  window.diffusionLocalPictures = { show: soon };
  // The server draws the panel of references anew for each model, without its rows.
  new MutationObserver((all) => {
    if (all.some(({ target }) => target.closest?.("#controls, #references"))) soon();
  }).observe(document.documentElement, { subtree: true, childList: true });

  // One after the other, to keep the order of selection.
  async function add(name, files) {
    const panel = panelOf(name);
    told(panel, words.uploading);
    try {
      for (const file of files) {
        const said = await post(`sources?field=${name}`, file, file.type || "application/octet-stream");
        write(name, [...read(field(name).value), { image: said.id, ...LISTS[name].added(panel) }]);
        show(name);
      }
      told(panel, "");
    } catch (error) {
      told(panel, error.message);
    }
  }
  const listOf = (target) => target.closest?.("#controls, #references")?.id;
  document.addEventListener("click", ({ target }) => {
    if (target.closest?.(".picture-list [data-listed=add]")) panelOf(listOf(target)).querySelector("[data-file]").click();
  });
  document.addEventListener("change", ({ target }) => {
    if (!target.matches?.(".picture-list [data-file]") || !target.files.length) return;
    add(listOf(target), [...target.files]);
    target.value = "";
  });

  // Files that are dropped on a list belong to it; elsewhere they are the picture to begin from (source.js).
  const over = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files") && event.target.closest?.("[data-drops]");
  const mark = (panel) => {
    for (const each of document.querySelectorAll("[data-drops]")) each.toggleAttribute("data-over", each === panel);
  };
  document.addEventListener("dragover", (event) => {
    const panel = over(event);
    if (panel) event.preventDefault();
    mark(panel);
  });
  document.addEventListener("dragleave", ({ relatedTarget }) => { if (!relatedTarget) mark(null); });
  document.addEventListener("drop", (event) => {
    const panel = over(event);
    mark(null);
    if (!panel) return;
    event.preventDefault();
    const pictures = [...event.dataTransfer.files].filter((file) => file.type.startsWith("image/"));
    if (pictures.length) add(listOf(panel), pictures);
  });
})();
