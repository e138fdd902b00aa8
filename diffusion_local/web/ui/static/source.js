// The source picture (view_stage.py): picked, dropped, pasted, or from the gallery; its kind of work; its mask.
(() => {
  const words = window.diffusionLocalWords;
  const field = (name) => document.querySelector(`#field-${name} :is(textarea, input)`);
  const value = (name) => field(name)?.value ?? "";
  function set(name, text, input = field(name)) {
    if (!input || input.value === text) return;
    input.value = text;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }
  const panel = () => document.querySelector("#source .source");
  const waiting = []; // for the panel, which the server draws after the page has loaded
  const drawn = () => new Promise((resolve) => { if (panel()) resolve(); else waiting.push(resolve); });
  let extended = ""; // how the frame of the canvas extends the picture
  let said = ""; // of an upload: that it goes on, or why it came to nothing
  const tell = (text) => {
    said = text;
    show();
  };
  const root = window.diffusionLocalRoot;
  const address = (id) => `${root}/sources/${id}.png`;

  // -- values of the fields
  function show() {
    const root = panel();
    if (!root) return;
    for (const resolve of waiting.splice(0)) resolve();
    const [id, mask] = [value("source"), value("mask")];
    const kind = id ? value("kind") : "txt2img";
    root.querySelector(".begin").hidden = !id && !said;
    root.querySelector("[data-source=pick]").hidden = !!id;
    const [img, over] = root.querySelectorAll(".from img");
    if (id && img.getAttribute("src") !== address(id)) img.src = address(id);
    over.hidden = kind !== "inpaint" || !mask;
    if (mask && over.getAttribute("src") !== address(mask)) over.src = address(mask);
    for (const radio of root.querySelectorAll("[name=kind]")) radio.checked = radio.value === kind;
    root.querySelector("[data-source=paint]").hidden = kind !== "inpaint";
    document.getElementById("dock").dataset.kind = kind;
    const told = root.querySelector("[data-told]");
    const outpaint = document.querySelector("#outpaint :is(textarea, input)")?.value ?? extended; // it may be folded away
    const text = said || (kind === "inpaint" && !mask && !outpaint ? words.no_mask : "");
    if (told.textContent !== text) told.textContent = text;
    const mark = document.querySelector("#panel [data-inpaint]"); // "Inpaint" was pressed for a picture
    const there = window.diffusionLocalRouter.view() === "create";
    if (mark && there && mark.dataset.inpaint === id && kind === "inpaint" && !mask) {
      mark.remove();
      if (!root.checkVisibility()) document.documentElement.classList.add("with-sheet"); // on a phone
      paint();
    }
  }
  let waits = 0;
  const soon = () => { cancelAnimationFrame(waits); waits = requestAnimationFrame(() => requestAnimationFrame(show)); };
  window.diffusionLocalSource = { show: soon };
  new MutationObserver((all) => {
    if (all.some(({ target }) => target.closest?.("#source, #panel"))) soon();
  }).observe(document.documentElement, { subtree: true, childList: true });
  document.addEventListener("diffusion-local:went", soon);

  // -- a file becomes a source
  async function upload(data, name) {
    const answer = await fetch(`${root}/api/v1/sources?field=${name}`, {
      method: "POST", body: data, headers: { "Content-Type": data.type || "application/octet-stream" },
    });
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error?.message.replace(/^(source|mask): /, "") ?? words.not_arrived);
    return said;
  }
  // ``note``: told once the picture is there.
  async function begin(file, note = "") {
    tell(words.uploading);
    try {
      const source = await upload(file, "source");
      await drawn();
      tell(note);
      if (source.recipe) ask(source, JSON.stringify(source.recipe));
      else take(source);
    } catch (error) {
      tell(error instanceof TypeError ? words.not_arrived : `${file.name}: ${error.message}`);
    }
  }
  function take(source) {
    if (!["img2img", "inpaint", "upscale"].includes(value("kind"))) set("kind", "img2img");
    set("mask", "");
    set("source", source.id);
    soon();
  }
  function ask(source, recipe) {
    const dialog = document.querySelector("#source dialog.ask");
    dialog.onclick = ({ target }) => {
      const choice = target.closest("[data-ask]")?.dataset.ask;
      if (!choice) return;
      dialog.close();
      if (choice === "source") take(source);
      const dropped = document.querySelector("#dropped :is(textarea, input)");
      // A space at the end makes the same recipe a new value: it may be dropped twice.
      if (choice === "recipe") set("dropped", dropped.value === recipe ? `${recipe} ` : recipe, dropped);
    };
    dialog.showModal();
  }

  const picture = (items) => [...(items ?? [])].find((file) => file.type.startsWith("image/"));
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const isOthers = (event) => !!event.target.closest?.("[data-drops]"); // pictures.js
  const drop = (on) => { const shade = document.querySelector("#source .drop"); if (shade) shade.hidden = !on; };
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    drop(!isOthers(event));
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop(false); });
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    drop(false);
    if (isOthers(event)) return;
    const files = [...event.dataTransfer.files];
    const file = picture(files);
    const router = window.diffusionLocalRouter;
    if (!file && files.length && router.view() === "lists") return window.diffusionLocalLists.send("list", files[0]);
    router.go(`${router.base}create`);
    if (file) begin(file, files.length > 1 ? words.one_picture.replace("{}", file.name) : "");
    else if (files.length) tell(words.no_picture.replace("{}", files[0].name));
  });
  document.addEventListener("paste", (event) => {
    const file = picture(event.clipboardData?.files);
    if (!file) return;
    event.preventDefault();
    begin(file);
  });
  document.addEventListener("change", ({ target }) => {
    if (!target.closest?.("#source .source")) return;
    if (target.matches("[data-file]") && target.files[0]) begin(target.files[0]);
    if (target.matches("[data-file]")) target.value = "";
    if (target.name === "kind") set("kind", target.value);
    if (target.value === "inpaint" && !value("mask")) paint();
    soon();
  });
  document.addEventListener("click", ({ target }) => {
    const what = target.closest?.("[data-source]")?.dataset.source;
    if (what === "pick") panel().querySelector("[data-file]").click();
    if (what === "paint") paint();
    if (what === "remove") {
      set("source", "");
      set("mask", "");
      set("kind", "txt2img");
      tell("");
      soon();
    }
  });

  // -- the mask (canvas.js)
  function paint() {
    const mask = value("mask");
    const box = document.querySelector("#source dialog.painter");
    window.diffusionLocalCanvas.open(box, address(value("source")), mask && address(mask), keep)
      .catch(() => { box.close(); tell(words.not_arrived); });
  }
  async function keep(canvas, outpaint) {
    extended = outpaint;
    window.diffusionLocalPrompts.fill({ outpaint });
    try {
      const id = canvas ? (await upload(await new Promise((done) => canvas.toBlob(done, "image/png")), "mask")).id : "";
      set("mask", id);
      window.diffusionLocalCanvas.stored(id && address(id));
      tell("");
    } catch (error) {
      tell(error instanceof TypeError ? words.not_arrived : error.message);
    }
    soon();
  }
})();
