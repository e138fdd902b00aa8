// The picture to begin from (view_source.py): picked, dropped, pasted, or of the gallery; its kind of work; its mask.
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
  let said = ""; // of an upload: that it goes on, or why it came to nothing
  const tell = (text) => {
    said = text;
    show();
  };
  const root = window.diffusionLocalRoot;
  const address = (id) => `${root}/sources/${id}.png`;

  // -- what the fields say
  function show() {
    const root = panel();
    if (!root) return;
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
    const outpaint = document.querySelector("#outpaint :is(textarea, input)")?.value;
    const text = said || (kind === "inpaint" && !mask && !outpaint ? words.no_mask : "");
    if (told.textContent !== text) told.textContent = text;
  }
  let waits = 0;
  const soon = () => { cancelAnimationFrame(waits); waits = requestAnimationFrame(() => requestAnimationFrame(show)); };
  window.diffusionLocalSource = { show: soon };
  new MutationObserver((all) => {
    if (all.some(({ target }) => target.closest?.("#source"))) soon();
  }).observe(document.documentElement, { subtree: true, childList: true });

  // -- a file becomes a source
  async function upload(data, name) {
    const answer = await fetch(`${root}/api/v1/sources?field=${name}`, {
      method: "POST", body: data, headers: { "Content-Type": data.type || "application/octet-stream" },
    });
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error?.message ?? words.not_arrived);
    return said;
  }
  async function begin(file) {
    tell(words.uploading);
    try {
      const source = await upload(file, "source");
      tell("");
      if (source.recipe) ask(source, JSON.stringify(source.recipe));
      else take(source);
    } catch (error) {
      tell(error instanceof TypeError ? words.not_arrived : error.message);
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
  const drop = (on) => { const shade = document.querySelector("#source .drop"); if (shade) shade.hidden = !on; };
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    drop(true);
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop(false); });
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    drop(false);
    const file = picture(event.dataTransfer.files);
    if (!file) return;
    document.querySelector("[role=tab][data-tab-id=create]")?.click();
    begin(file);
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
      soon();
    }
  });

  // -- the mask: white is painted anew. Strokes are kept, so that each can be undone.
  const LARGEST = 1024;
  let strokes = [];
  let erasing = false;
  const dialog = () => document.querySelector("#source dialog.painter");
  function stroke(context, { points, width, erase }) {
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    context.lineWidth = width;
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = "#fff";
    context.beginPath();
    context.moveTo(...points[0]);
    for (const point of points.length > 1 ? points : [points[0], points[0]]) context.lineTo(...point);
    context.stroke();
  }
  function redraw(canvas) {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (const each of strokes) stroke(context, each);
  }
  function paint() {
    const box = dialog();
    const [img, canvas] = [box.querySelector("img"), box.querySelector("canvas")];
    strokes = [];
    press(box, "erase", (erasing = false));
    img.onload = () => {
      const shrink = Math.min(1, LARGEST / Math.max(img.naturalWidth, img.naturalHeight));
      canvas.width = Math.round(img.naturalWidth * shrink);
      canvas.height = Math.round(img.naturalHeight * shrink);
      redraw(canvas);
    };
    img.src = address(value("source"));
    let drawing = null;
    const point = (event) => {
      const at = canvas.getBoundingClientRect();
      return [((event.clientX - at.left) * canvas.width) / at.width, ((event.clientY - at.top) * canvas.height) / at.height];
    };
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      const width = (Number(box.querySelector("[data-brush]").value) / 100) * Math.min(canvas.width, canvas.height) * 1.5;
      drawing = { points: [point(event)], width, erase: erasing };
      strokes.push(drawing);
      redraw(canvas);
    };
    canvas.onpointermove = (event) => {
      if (!drawing) return;
      drawing.points.push(point(event));
      redraw(canvas);
    };
    canvas.onpointerup = canvas.onpointercancel = () => { drawing = null; };
    box.showModal();
  }
  const press = (box, name, on) => box.querySelector(`[data-paint=${name}]`).setAttribute("aria-pressed", on);
  async function finished(canvas) {
    const mask = document.createElement("canvas");
    [mask.width, mask.height] = [canvas.width, canvas.height];
    const context = mask.getContext("2d");
    context.fillRect(0, 0, mask.width, mask.height);
    context.drawImage(canvas, 0, 0);
    const data = await new Promise((done) => mask.toBlob(done, "image/png"));
    try {
      set("mask", strokes.length ? (await upload(data, "mask")).id : "");
    } catch (error) {
      tell(error instanceof TypeError ? words.not_arrived : error.message);
    }
    soon();
  }
  document.addEventListener("click", ({ target }) => {
    const what = target.closest?.("[data-paint]")?.dataset.paint;
    if (!what) return;
    const box = dialog();
    const canvas = box.querySelector("canvas");
    if (what === "erase") press(box, "erase", (erasing = !erasing));
    if (what === "undo") strokes.pop();
    if (what === "clear") strokes = [];
    if (what === "undo" || what === "clear") redraw(canvas);
    if (what === "done") finished(canvas);
    if (what === "done" || what === "close") box.close();
  });
})();
