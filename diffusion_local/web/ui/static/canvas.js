// The canvas for painting a mask (templates/source.html): painted areas are generated anew. The picture can be panned and
// zoomed; the mask is a list of strokes over an earlier mask, so that each can be undone. Pen pressure sets the width, one
// finger paints, two fingers pan and zoom, the right button erases. Dragging a side of the frame extends the picture.
window.diffusionLocalCanvas = (() => {
  const LARGEST = 2048; // pixels of the mask's longer side
  const ZOOM = [0.05, 32];
  const MARGIN = 24;
  let box = null; // the dialog
  let opened = null; // {source, mask} that the steps belong to
  let picture = null;
  let mask = null; // opaque where it is painted
  let base = null; // the mask that was there before
  let soft = null; // the mask with its feather, until it changes
  let [steps, undone] = [[], []];
  let [tool, size, feather] = ["brush", 30, 0];
  let camera = { scale: 1, x: 0, y: 0 };
  let fitted = true; // nobody has moved the picture
  let pointer = null; // where the brush is, in CSS pixels of the screen
  let drawing = null;
  let panning = null;
  let spaced = false;
  const touches = new Map();
  const layer = document.createElement("canvas");

  const SIDES = ["left", "top", "right", "bottom"];
  const MOST_SIDE = 2048; // pixels of the picture by which a side can be moved
  const STEP = 8;
  let margins = { left: 0, top: 0, right: 0, bottom: 0 }; // of the frame around the picture, in its pixels
  let side = null; // the one that is dragged

  const screen = () => box.querySelector("canvas");
  const sheet = (width, height) => Object.assign(document.createElement("canvas"), { width, height });
  const shorter = () => Math.min(mask.width, mask.height);
  const width = () => Math.max(2, (size / 100) ** 2 * shorter() * 0.9); // of the brush, in pixels of the mask

  // -- steps
  function segment(context, [x, y, w], [tox, toy, tow], erase) {
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = "#fff";
    context.lineWidth = (w + tow) / 2;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(tox, toy);
    context.stroke();
  }
  function apply(context, step) {
    if (step.points) step.points.forEach((point, at) => segment(context, step.points[Math.max(0, at - 1)], point, step.erase));
    if (step.kind === "clear") context.clearRect(0, 0, mask.width, mask.height);
    if (step.kind === "invert") {
      context.globalCompositeOperation = "xor";
      context.fillStyle = "#fff";
      context.fillRect(0, 0, mask.width, mask.height);
    }
    context.globalCompositeOperation = "source-over";
  }
  function replay() {
    const context = mask.getContext("2d");
    context.clearRect(0, 0, mask.width, mask.height);
    if (base) context.drawImage(base, 0, 0, mask.width, mask.height);
    for (const step of steps) apply(context, step);
    changed();
  }
  function add(step) {
    steps.push(step);
    undone = [];
    apply(mask.getContext("2d"), step);
    changed();
  }
  function undo() {
    if (!steps.length) return;
    undone.push(steps.pop());
    replay();
  }
  function redo() {
    if (!undone.length) return;
    const step = undone.pop();
    steps.push(step);
    apply(mask.getContext("2d"), step);
    changed();
  }
  function changed() {
    soft = null;
    show();
    draw();
  }

  // The mask with soft edges. Safari's contexts have no filter: it is drawn small and large again.
  function feathered() {
    if (!feather) return mask;
    if (soft) return soft;
    const radius = (feather / 100) * shorter() * 0.15;
    soft = sheet(mask.width, mask.height);
    const context = soft.getContext("2d");
    if ("filter" in context) {
      context.filter = `blur(${radius}px)`;
      context.drawImage(mask, 0, 0);
      return soft;
    }
    const small = sheet(Math.max(1, Math.round(mask.width / radius)), Math.max(1, Math.round(mask.height / radius)));
    small.getContext("2d").drawImage(mask, 0, 0, small.width, small.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, mask.width, mask.height);
    return soft;
  }

  // -- the frame, by which the picture is extended
  const perPixel = () => (mask.width / picture.naturalWidth) * camera.scale; // CSS pixels for one of the picture
  const extended = () => SIDES.some((each) => margins[each] > 0);
  function frameBox() {
    const by = perPixel();
    return {
      left: camera.x - margins.left * by,
      top: camera.y - margins.top * by,
      right: camera.x + mask.width * camera.scale + margins.right * by,
      bottom: camera.y + mask.height * camera.scale + margins.bottom * by,
    };
  }
  function frameLines(context, ratio) {
    const { left, top, right, bottom } = frameBox();
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.strokeStyle = "#2dd4bf";
    context.lineWidth = 2;
    context.setLineDash([8, 6]);
    context.strokeRect(left, top, right - left, bottom - top);
    context.setLineDash([]);
    context.fillStyle = "#2dd4bf";
    const [x, y] = [(left + right) / 2, (top + bottom) / 2];
    for (const [dx, dy, w, h] of [[left, y, 6, 36], [right, y, 6, 36], [x, top, 36, 6], [x, bottom, 36, 6]])
      context.fillRect(dx - w / 2, dy - h / 2, w, h);
    context.setTransform(1, 0, 0, 1, 0, 0);
  }
  function nearest({ x, y }) {
    const edges = frameBox();
    const away = { left: Math.abs(x - edges.left), right: Math.abs(x - edges.right), top: Math.abs(y - edges.top), bottom: Math.abs(y - edges.bottom) };
    return SIDES.reduce((best, each) => away[each] < away[best] ? each : best);
  }
  function dragSide({ x, y }) {
    const by = perPixel();
    const wanted = {
      left: (camera.x - x) / by,
      top: (camera.y - y) / by,
      right: (x - camera.x) / by - picture.naturalWidth,
      bottom: (y - camera.y) / by - picture.naturalHeight,
    }[side];
    margins[side] = Math.max(0, Math.min(MOST_SIDE, Math.round(wanted / STEP) * STEP));
    show();
  }

  // -- the screen
  let frame = 0;
  const draw = () => { cancelAnimationFrame(frame); frame = requestAnimationFrame(paint); };
  function stripes(context) { // light and dark, so that no picture hides them
    const tile = sheet(12, 12);
    const on = tile.getContext("2d");
    on.fillStyle = "#ff3d9a";
    on.fillRect(0, 0, 12, 12);
    on.strokeStyle = "#5b0f3c";
    on.lineWidth = 2;
    for (const at of [-12, 0, 12]) {
      on.beginPath();
      on.moveTo(at - 1, 13);
      on.lineTo(at + 13, -1);
      on.stroke();
    }
    return context.createPattern(tile, "repeat");
  }
  function paint() {
    if (!box?.open || !mask) return;
    const canvas = screen();
    const context = canvas.getContext("2d");
    const ratio = canvas.width / canvas.clientWidth;
    const place = (on) => on.setTransform(ratio * camera.scale, 0, 0, ratio * camera.scale, ratio * camera.x, ratio * camera.y);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    place(context);
    context.imageSmoothingEnabled = camera.scale < 4;
    context.drawImage(picture, 0, 0, mask.width, mask.height);
    if (layer.width !== canvas.width || layer.height !== canvas.height) [layer.width, layer.height] = [canvas.width, canvas.height];
    const over = layer.getContext("2d");
    over.setTransform(1, 0, 0, 1, 0, 0);
    over.globalCompositeOperation = "source-over";
    over.clearRect(0, 0, layer.width, layer.height);
    place(over);
    over.drawImage(drawing ? mask : feathered(), 0, 0);
    over.setTransform(1, 0, 0, 1, 0, 0);
    over.globalCompositeOperation = "source-in";
    over.fillStyle = stripes(over);
    over.fillRect(0, 0, layer.width, layer.height);
    over.globalCompositeOperation = "source-over";
    over.setTransform(ratio, 0, 0, ratio, 0, 0);
    const { left, top, right, bottom } = frameBox();
    const inner = { left: camera.x, top: camera.y, right: camera.x + mask.width * camera.scale, bottom: camera.y + mask.height * camera.scale };
    over.fillRect(left, top, right - left, inner.top - top);
    over.fillRect(left, inner.bottom, right - left, bottom - inner.bottom);
    over.fillRect(left, inner.top, inner.left - left, inner.bottom - inner.top);
    over.fillRect(inner.right, inner.top, right - inner.right, inner.bottom - inner.top);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = 0.6;
    context.drawImage(layer, 0, 0);
    context.globalAlpha = 1;
    if (tool === "frame" || extended()) frameLines(context, ratio);
    if (!pointer || panning || ["pan", "frame"].includes(tool) || spaced) return;
    for (const [colour, line] of [["#000", 3], ["#fff", 1.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = line * ratio;
      context.beginPath();
      context.arc(pointer.x * ratio, pointer.y * ratio, Math.max(2, (width() / 2) * camera.scale * ratio), 0, 2 * Math.PI);
      context.stroke();
    }
  }
  function resize() {
    if (!mask) return; // still loading
    const canvas = screen();
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    const [across, down] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (!across || !down) return;
    if (canvas.width !== across || canvas.height !== down) [canvas.width, canvas.height] = [across, down];
    if (fitted) fit();
    draw();
  }
  function fit() {
    const canvas = screen();
    const [across, down] = [canvas.clientWidth, canvas.clientHeight];
    const by = mask.width / picture.naturalWidth;
    const [whole, tall] = [mask.width + (margins.left + margins.right) * by, mask.height + (margins.top + margins.bottom) * by];
    camera.scale = Math.min((across - 2 * MARGIN) / whole, (down - 2 * MARGIN) / tall);
    camera.x = (across - whole * camera.scale) / 2 + margins.left * by * camera.scale;
    camera.y = (down - tall * camera.scale) / 2 + margins.top * by * camera.scale;
    fitted = true;
    show();
    draw();
  }
  // Keeps the point under (x, y) in place.
  function zoom(factor, x = screen().clientWidth / 2, y = screen().clientHeight / 2) {
    const scale = Math.max(ZOOM[0], Math.min(ZOOM[1], camera.scale * factor));
    camera.x = x - ((x - camera.x) * scale) / camera.scale;
    camera.y = y - ((y - camera.y) * scale) / camera.scale;
    camera.scale = scale;
    fitted = false;
    show();
    draw();
  }

  // -- the tools
  function show() {
    for (const each of ["brush", "erase", "pan", "frame"])
      box.querySelector(`[data-paint=${each}]`).setAttribute("aria-pressed", tool === each);
    box.querySelector("[data-paint=undo]").disabled = !steps.length;
    box.querySelector("[data-paint=redo]").disabled = !undone.length;
    box.querySelector("[data-brush]").value = size;
    box.querySelector("[data-feather]").value = feather;
    box.querySelector("[data-zoomed]").textContent = `${Math.round(camera.scale * (mask.width / picture.naturalWidth) * 100)} %`;
    box.querySelector("[data-margins]").textContent = extended()
      ? `${picture.naturalWidth + margins.left + margins.right} × ${picture.naturalHeight + margins.top + margins.bottom}` : "";
    box.dataset.tool = panning || spaced ? "pan" : tool;
  }
  const use = (name) => { tool = name; show(); draw(); };
  const resized = (to) => { size = Math.max(1, Math.min(100, Math.round(to))); show(); draw(); };
  const ACTS = {
    brush: () => use("brush"),
    erase: () => use("erase"),
    pan: () => use("pan"),
    frame: () => use("frame"),
    undo, redo, fit,
    clear: () => add({ kind: "clear" }),
    invert: () => add({ kind: "invert" }),
    nearer: () => zoom(1.25),
    farther: () => zoom(0.8),
    close: () => box.close(),
    done: () => finish(),
  };
  const KEYS = { b: "brush", e: "erase", h: "pan", f: "frame", i: "invert", 0: "fit", "+": "nearer", "=": "nearer", "-": "farther" };

  // -- pointers
  const at = (event) => {
    const { left, top } = screen().getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  };
  function point(event) {
    const { x, y } = at(event);
    const pressed = event.pointerType === "pen" && event.pressure ? 0.3 + 0.7 * event.pressure : 1;
    return [(x - camera.x) / camera.scale, (y - camera.y) / camera.scale, width() * pressed];
  }
  function down(event) {
    event.preventDefault();
    screen().setPointerCapture(event.pointerId);
    pointer = at(event);
    if (event.pointerType === "touch") {
      touches.set(event.pointerId, pointer);
      if (touches.size === 2) { // no stroke, but a hold of the picture
        if (drawing) { drawing = null; replay(); }
        panning = grip();
        return;
      }
      if (touches.size > 2) return;
    }
    if (event.button === 1 || spaced || tool === "pan") {
      panning = { ...pointer, camera: { ...camera } };
      show();
      return;
    }
    if (tool === "frame") {
      side = nearest(pointer);
      dragSide(pointer);
      draw();
      return;
    }
    const erase = tool === "erase" || event.button === 2 || !!(event.buttons & 32); // 32: a pen's other end
    drawing = { points: [point(event)], erase };
    segment(mask.getContext("2d"), drawing.points[0], drawing.points[0], erase);
    draw();
  }
  const grip = () => {
    const [one, two] = [...touches.values()];
    return { x: (one.x + two.x) / 2, y: (one.y + two.y) / 2, apart: Math.hypot(one.x - two.x, one.y - two.y), camera: { ...camera } };
  };
  function move(event) {
    pointer = event.pointerType === "touch" ? null : at(event);
    if (touches.has(event.pointerId)) touches.set(event.pointerId, at(event));
    if (panning && (touches.size === 2 || !touches.size || tool === "pan")) {
      const now = touches.size === 2 ? grip() : at(event);
      const factor = panning.apart ? now.apart / panning.apart : 1;
      const scale = Math.max(ZOOM[0], Math.min(ZOOM[1], panning.camera.scale * factor));
      camera.x = now.x - ((panning.x - panning.camera.x) * scale) / panning.camera.scale;
      camera.y = now.y - ((panning.y - panning.camera.y) * scale) / panning.camera.scale;
      camera.scale = scale;
      fitted = false;
      show();
    } else if (side) {
      dragSide(at(event));
    } else if (drawing) {
      for (const each of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
        drawing.points.push(point(each));
        segment(mask.getContext("2d"), drawing.points.at(-2), drawing.points.at(-1), drawing.erase);
      }
    }
    draw();
  }
  function up(event) {
    touches.delete(event.pointerId);
    side = null;
    if (drawing) {
      steps.push(drawing);
      undone = [];
      drawing = null;
      changed();
    }
    if (!touches.size) panning = null;
    show();
    draw();
  }

  function wire() {
    const canvas = screen();
    canvas.addEventListener("pointerdown", down);
    canvas.addEventListener("pointermove", move);
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, up);
    canvas.addEventListener("pointerleave", () => { pointer = null; draw(); });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { x, y } = at(event);
      if (event.shiftKey) resized(size - Math.sign(event.deltaY || event.deltaX) * 4);
      else zoom(Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), x, y);
    }, { passive: false });
    box.addEventListener("click", ({ target }) => ACTS[target.closest("[data-paint]")?.dataset.paint]?.());
    box.addEventListener("input", ({ target }) => {
      if (target.matches("[data-brush]")) resized(Number(target.value));
      if (target.matches("[data-feather]")) {
        feather = Number(target.value);
        changed();
      }
    });
    box.addEventListener("keydown", (event) => {
      event.stopPropagation(); // the page's own keys
      const key = event.key.toLowerCase();
      if (event.key === " " && !event.target.matches("button, input")) {
        spaced = true;
        show();
      } else if ((event.ctrlKey || event.metaKey) && key === "z") (event.shiftKey ? redo : undo)();
      else if ((event.ctrlKey || event.metaKey) && key === "y") redo();
      else if (event.ctrlKey || event.metaKey || event.altKey) return;
      else if (key === "[") resized(size - 4);
      else if (key === "]") resized(size + 4);
      else if (KEYS[key]) ACTS[KEYS[key]]();
      else return;
      event.preventDefault();
    });
    box.addEventListener("keyup", (event) => { if (event.key === " ") { spaced = false; show(); draw(); } });
    new ResizeObserver(resize).observe(canvas);
  }

  // White where painted, black elsewhere; null if nothing is painted.
  function finish() {
    const read = sheet(mask.width, mask.height).getContext("2d", { willReadFrequently: true });
    read.drawImage(mask, 0, 0);
    const painted = read.getImageData(0, 0, mask.width, mask.height).data.some((value, place) => place % 4 === 3 && value);
    const out = sheet(mask.width, mask.height);
    const context = out.getContext("2d");
    context.fillRect(0, 0, out.width, out.height);
    context.drawImage(feathered(), 0, 0);
    box.close();
    opened.done(painted ? out : null, SIDES.filter((each) => margins[each]).map((each) => `${each}:${margins[each]}`).join(" "));
  }
  // A stored mask: its brightness is the painted area.
  function fromMask(image) {
    const made = sheet(mask.width, mask.height);
    const context = made.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0, made.width, made.height);
    const pixels = context.getImageData(0, 0, made.width, made.height);
    for (let place = 0; place < pixels.data.length; place += 4) {
      pixels.data[place + 3] = pixels.data[place];
      pixels.data[place] = pixels.data[place + 1] = pixels.data[place + 2] = 255;
    }
    context.putImageData(pixels, 0, 0);
    return made;
  }
  const loaded = (address) => new Promise((done, fail) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = fail;
    image.src = address;
  });

  return {
    // `source` and `mask` are addresses ("" without a mask); `done` takes the painted canvas; `first` is the tool
    // to begin with, else the last one. Steps of the same picture
    // are still there when it is opened again, also after Escape.
    async open(dialog, source, earlier, done, first = "") {
      if (box !== dialog) {
        box = dialog;
        wire();
      }
      delete box.dataset.ready;
      const same = opened?.source === source && opened.mask === earlier;
      box.showModal();
      picture = await loaded(source);
      if (!same) {
        const shrink = Math.min(1, LARGEST / Math.max(picture.naturalWidth, picture.naturalHeight));
        mask = sheet(Math.round(picture.naturalWidth * shrink), Math.round(picture.naturalHeight * shrink));
        [steps, undone, soft, feather] = [[], [], null, 0];
        if (opened?.source !== source) margins = { left: 0, top: 0, right: 0, bottom: 0 };
        base = earlier ? fromMask(await loaded(earlier)) : null;
        replay();
      }
      opened = { source, mask: earlier, done };
      fitted = true;
      if (first) tool = first;
      resize();
      show();
      screen().focus();
      box.dataset.ready = "";
    },
    // The mask was stored: the steps are those of this one.
    stored(address) { if (opened) opened.mask = address; },
    view: () => ({ ...camera, steps: steps.length, width: mask.width, height: mask.height, size, feather, tool, margins }),
  };
})();
