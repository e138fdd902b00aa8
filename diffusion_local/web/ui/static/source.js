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
  const MOST = 50; // pictures at once, as in form.py
  const ids = () => value("source").split(" ").filter(Boolean); // the first is shown; each makes a batch
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
    const [[id = "", ...others], mask] = [ids(), value("mask")];
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
    root.querySelector("[name=kind][value=inpaint]").closest("label").hidden = others.length > 0; // one mask, one picture
    root.querySelector("[data-source=extend]").hidden = others.length > 0;
    showAll(root.querySelector(".sources"), others.length ? [id, ...others] : []);
    const several = others.length ? words.several_sources.replace("{}", others.length + 1) : "";
    const text = said || several || (kind === "inpaint" && !mask && !outpaint ? words.no_mask : "");
    if (told.textContent !== text) told.textContent = text;
    const mark = document.querySelector("#panel [data-inpaint]"); // "Inpaint" was pressed for a picture
    const there = window.diffusionLocalRouter.view() === "create";
    if (mark && there && mark.dataset.inpaint === id && kind === "inpaint" && !mask) {
      mark.remove();
      const tool = mark.dataset.tool;
      if (!root.checkVisibility()) window.diffusionLocalDock.sheet(true); // on a phone
      paint(tool);
    }
  }
  function showAll(list, all) {
    if (list.dataset.shown === all.join(" ")) return;
    list.dataset.shown = all.join(" ");
    list.replaceChildren(...all.map((id) => {
      const item = document.createElement("li");
      const img = Object.assign(document.createElement("img"), { src: address(id), alt: "" });
      const remove = Object.assign(document.createElement("button"), { type: "button", className: "act icon", textContent: "✕", title: list.dataset.remove });
      remove.setAttribute("aria-label", list.dataset.remove);
      remove.addEventListener("click", () => { set("source", ids().filter((each) => each !== id).join(" ")); tell(""); });
      item.append(img, remove);
      return item;
    }));
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
  async function begin(file) {
    tell(words.uploading);
    try {
      const source = await upload(file, "source");
      await drawn();
      tell("");
      if (source.recipe) ask(source, JSON.stringify(source.recipe));
      else take(source);
    } catch (error) {
      tell(error instanceof TypeError ? words.not_arrived : `${file.name}: ${error.message}`);
    }
  }
  // Several: a batch of each. Those that are refused are told, the others are taken.
  async function beginAll(files) {
    tell(words.uploading);
    const taken = [];
    const refused = files.length > MOST ? [words.most_sources.replace("{}", MOST)] : [];
    for (const file of files.slice(0, MOST)) {
      if (!file.type.startsWith("image/")) refused.push(words.no_picture.replace("{}", file.name));
      else try {
        taken.push((await upload(file, "source")).id);
      } catch (error) {
        refused.push(`${file.name}: ${error instanceof TypeError ? words.not_arrived : error.message}`);
      }
    }
    await drawn();
    if (taken.length) {
      set("mask", "");
      if (taken.length > 1 ? value("kind") !== "upscale" : !["img2img", "inpaint", "upscale"].includes(value("kind"))) set("kind", "img2img");
      set("source", [...new Set(taken)].join(" "));
    }
    tell(refused.join(" "));
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
    if (file && files.length > 1) beginAll(files);
    else if (file) begin(file);
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
    if (target.matches("[data-file]") && target.files.length > 1) beginAll([...target.files]);
    else if (target.matches("[data-file]") && target.files[0]) begin(target.files[0]);
    if (target.matches("[data-file]")) target.value = "";
    if (target.name === "kind") set("kind", target.value);
    if (target.value === "inpaint" && !value("mask")) paint("brush");
    soon();
  });
  document.addEventListener("click", ({ target }) => {
    const what = target.closest?.("[data-source]")?.dataset.source;
    if (what === "pick") panel().querySelector("[data-file]").click();
    if (what === "paint") paint("brush");
    if (what === "extend") {
      set("kind", "inpaint");
      paint("frame");
      soon();
    }
    if (what === "remove") {
      set("source", "");
      set("mask", "");
      set("kind", "txt2img");
      tell("");
      soon();
    }
  });

  // -- the mask (canvas.js)
  function paint(tool = "") {
    const mask = value("mask");
    const box = document.querySelector("#source dialog.painter");
    window.diffusionLocalCanvas.open(box, address(ids()[0]), mask && address(mask), keep, tool)
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
