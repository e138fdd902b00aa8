// The viewer (view_picture.py): zoom, pan, swipe, walking, and the picture's own address. Everything is delegated from
// the document, as the dialog comes and goes.
(() => {
  const MOST = 12;
  const dialog = () => document.querySelector("[data-picture]");
  const stage = () => dialog()?.querySelector(".stage");
  const image = () => stage()?.querySelector("img");
  let view = { scale: 1, x: 0, y: 0 };
  let shown = null;

  function place() {
    const img = image();
    if (!img) return;
    const box = stage().getBoundingClientRect();
    const most = { x: (box.width * (view.scale - 1)) / 2, y: (box.height * (view.scale - 1)) / 2 };
    view.x = Math.max(-most.x, Math.min(most.x, view.x));
    view.y = Math.max(-most.y, Math.min(most.y, view.y));
    img.style.transform = view.scale === 1 ? "" : `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
    stage().classList.toggle("zoomed", view.scale > 1);
  }
  // Keeps the point under (x, y), relative to the centre of the stage, in place.
  function zoom(scale, x = 0, y = 0) {
    const next = Math.max(1, Math.min(MOST, scale));
    view.x = x - ((x - view.x) * next) / view.scale;
    view.y = y - ((y - view.y) * next) / view.scale;
    view.scale = next;
    place();
  }
  const fromMiddle = (event) => {
    const box = stage().getBoundingClientRect();
    return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
  };

  // -- previous and next picture: the visible links, in page order
  function links() {
    const found = [...document.querySelectorAll("a.open[data-id]")].filter((link) => link.offsetParent);
    return found.filter((link, at) => found.findIndex((each) => each.dataset.id === link.dataset.id) === at);
  }
  const neighbour = (step) => {
    const all = links();
    const at = all.findIndex((link) => link.dataset.id === dialog().dataset.picture);
    return at < 0 ? undefined : all[at + step];
  };
  const walk = (step) => neighbour(step)?.click();

  function opened() {
    view = { scale: 1, x: 0, y: 0 };
    for (const button of dialog().querySelectorAll("[data-walk]")) button.disabled = !neighbour(Number(button.dataset.walk));
    const next = neighbour(1);
    if (next) new Image().src = next.dataset.file;
    if (localStorage.getItem("diffusion-local-recipe") === "hidden") dialog().classList.add("bare");
  }
  // The address names the open picture: it can be sent to somebody, and "back" closes it.
  function follow() {
    const id = dialog()?.dataset.picture ?? null;
    if (id === shown) return;
    const router = window.diffusionLocalRouter;
    if (id) {
      const address = `${router.base}picture/${id}`;
      if (shown || router.picture()) history.replaceState(history.state, "", address);
      else history.pushState({ picture: id }, "", address);
      opened();
    } else if (router.picture()) {
      setTimeout(() => { // once Gradio has drawn all of the answer: it may also have opened another view
        router.follow();
        if (!router.picture() || dialog()) return;
        if (history.state?.picture) history.back(); // to what lies under the picture
        else router.go(`${router.base}${router.view()}`, { replace: true });
      });
    }
    shown = id;
  }
  new MutationObserver(follow).observe(document.documentElement, {
    subtree: true, childList: true, attributes: true, attributeFilter: ["data-picture"],
  });

  // -- wheel, pointer and double click
  document.addEventListener("wheel", (event) => {
    if (!event.target.closest?.(".stage")) return;
    event.preventDefault();
    zoom(view.scale * Math.exp(-event.deltaY / 300), ...fromMiddle(event));
  }, { passive: false });
  document.addEventListener("dblclick", (event) => {
    if (event.target.closest?.(".stage")) zoom(view.scale > 1 ? 1 : 3, ...fromMiddle(event));
  });

  const pointers = new Map();
  let from = null; // where one finger went down
  let spread = 0; // between two fingers
  const apart = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
  };
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest?.(".stage")) return;
    pointers.set(event.pointerId, event);
    event.target.setPointerCapture?.(event.pointerId);
    from = pointers.size === 1 ? event : null;
    if (pointers.size === 2) spread = apart();
  });
  document.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last || !stage()) return;
    pointers.set(event.pointerId, event);
    if (pointers.size === 2) {
      const now = apart();
      zoom((view.scale * now) / spread, ...fromMiddle(event));
      spread = now;
    } else if (view.scale > 1) {
      view.x += event.clientX - last.clientX;
      view.y += event.clientY - last.clientY;
      place();
    }
  });
  const lift = (event) => {
    if (!pointers.delete(event.pointerId) || !from || event.type !== "pointerup" || view.scale > 1) return;
    const across = event.clientX - from.clientX;
    const down = event.clientY - from.clientY;
    from = null;
    if (Math.abs(across) > 60 && Math.abs(across) > 2 * Math.abs(down)) walk(across < 0 ? 1 : -1);
    else if (down > 120 && down > 2 * Math.abs(across)) dialog()?.querySelector("[data-first]").click();
  };
  // -- a caption takes a while: its button waits for the toast, which draws the dialog anew if it still shows the picture
  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.("[data-caption]");
    if (!button) return;
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
    const observer = new MutationObserver(() => {
      const toast = document.querySelector("#toast .toast");
      if (!toast) return;
      observer.disconnect();
      if (!button.isConnected || button.dataset.id !== dialog()?.dataset.picture) return;
      button.disabled = false;
      button.removeAttribute("aria-busy");
      toast.querySelector(`[data-do=open][data-id="${button.dataset.id}"]`)?.click();
    });
    observer.observe(document.querySelector("#toast"), { subtree: true, childList: true, attributes: true });
  });

  document.addEventListener("pointerup", lift);
  document.addEventListener("pointercancel", lift);

  // -- buttons and keys
  function recipe() {
    const bare = dialog().classList.toggle("bare");
    localStorage.setItem("diffusion-local-recipe", bare ? "hidden" : "");
  }
  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.("[data-walk], [data-zoom], [data-recipe]");
    if (!button || !dialog()) return;
    const { walk: step, zoom: way } = button.dataset;
    if (step) walk(Number(step));
    else if (way) zoom(way === "0" ? 1 : view.scale * (way === "+" ? 1.5 : 1 / 1.5));
    else recipe();
  });
  const KEYS = {
    ArrowLeft: () => walk(-1),
    ArrowRight: () => walk(1),
    "+": () => zoom(view.scale * 1.5),
    "=": () => zoom(view.scale * 1.5),
    "-": () => zoom(view.scale / 1.5),
    0: () => zoom(1),
    i: recipe,
    s: () => dialog().querySelector("[data-star]").click(),
    Delete: () => dialog().querySelector("[data-trash]")?.click(),
  };
  document.addEventListener("keydown", (event) => {
    if (!dialog() || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
})();
