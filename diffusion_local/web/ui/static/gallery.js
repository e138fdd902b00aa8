// The gallery (tab_gallery.py): its filters are in the address; the visible range of pictures is kept here. The range is a
// window that follows scrolling by whole rows, so that a gallery of any size needs few elements.
(() => {
  const SIZE = "diffusion-local-tile";
  const MOST = 480; // tiles at once
  const STEP = 80;
  let filters = new URLSearchParams();
  let top = ""; // the newest picture when the gallery was opened
  let show = 160;
  let above = []; // of each window that was slid away: where the next begins, and how high it was
  let busy = 0; // until when a new window is awaited
  let typing = 0;
  const part = () => document.querySelector("#gallery .pictures");

  function write() {
    const field = document.querySelector("#place :is(textarea, input)");
    const place = new URLSearchParams(filters);
    const at = above.at(-1);
    if (at) place.set("at", at.id);
    else if (top) place.set("top", top);
    if (show !== 160) place.set("show", show);
    if (!field || field.value === place.toString()) return;
    field.value = place.toString();
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  function again(params) {
    filters = params;
    top = "";
    above = [];
    write();
  }
  document.addEventListener("diffusion-local:went", ({ detail }) => {
    if (detail.view !== "gallery") return;
    clearTimeout(typing);
    const search = document.querySelector("#gallery [data-search]");
    if (search && search.value !== (detail.query.get("search") ?? "")) search.value = detail.query.get("search") ?? "";
    again(new URLSearchParams(detail.query));
  });
  document.addEventListener("input", ({ target }) => {
    if (target.matches?.("[data-search]")) {
      clearTimeout(typing);
      typing = setTimeout(() => {
        const wanted = new URLSearchParams(filters);
        if (target.value.trim()) wanted.set("search", target.value.trim());
        else wanted.delete("search");
        window.diffusionLocalRouter.query("gallery", wanted, { replace: true });
        again(wanted);
      }, 200);
    }
    if (target.matches?.("[data-tile-size]")) {
      localStorage.setItem(SIZE, target.value);
      size();
    }
    if (target.matches?.("[data-slide]")) target.parentElement.style.setProperty("--at", `${target.value}%`);
  });
  function size() {
    const row = localStorage.getItem(SIZE) ?? (innerWidth < 760 ? 120 : 220);
    document.documentElement.style.setProperty("--row", `${row}px`);
    for (const slider of document.querySelectorAll("[data-tile-size]")) if (slider.value !== row) slider.value = row;
  }
  size();
  document.addEventListener("click", ({ target }) => {
    if (!target.closest?.("[data-fresh]")) return;
    window.scrollTo(0, 0);
    again(filters);
  });

  // -- the window
  const height = () => above.reduce((sum, each) => sum + each.height, 0);
  document.addEventListener("diffusion-local:drawn", ({ detail }) => {
    if (!("gallery" in detail)) return;
    queueMicrotask(() => { // this listener is called before the one that draws
      size();
      const pictures = part();
      if (!pictures) return;
      const place = new URLSearchParams(pictures.dataset.place);
      if ((place.get("at") ?? "") !== (above.at(-1)?.id ?? "")) return; // drawn for an older window
      document.querySelector("#gallery .spacer").style.height = `${height()}px`;
      busy = 0;
      if (!top && !above.length && pictures.firstElementChild) {
        top = pictures.firstElementChild.dataset.id;
        write();
      }
      requestAnimationFrame(slide);
    });
  });
  function slide() {
    const pictures = part();
    if (!pictures?.offsetParent || Date.now() < busy) return;
    const { top: begins, bottom } = pictures.getBoundingClientRect();
    if (bottom < innerHeight * 2.5 && pictures.dataset.more !== undefined) down(pictures);
    else if (begins > -innerHeight && above.length) above.pop();
    else return;
    busy = Date.now() + 5000;
    write();
  }
  // Rows far above are removed; where rows are missing, more are requested.
  function down(pictures) {
    const tiles = [...pictures.children];
    const first = tiles[0].offsetTop;
    const gone = tiles.findLast((tile, at) => tiles[at + 1] && tiles[at + 1].offsetTop > tile.offsetTop
      && tile.getBoundingClientRect().bottom < -innerHeight);
    const next = gone && gone.nextElementSibling.offsetTop - first;
    if (gone && tiles.indexOf(gone) >= 24) above.push({ id: gone.dataset.id, height: next });
    else if (show < MOST) show = Math.min(MOST, show + STEP);
    else if (gone) above.push({ id: gone.dataset.id, height: next });
  }
  let frame = 0;
  for (const what of ["scroll", "resize"])
    window.addEventListener(what, () => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(slide);
    }, { passive: true });

  // -- what is done with the picture under the pointer
  const tools = () => document.getElementById("tile-tools");
  function point(tile) {
    const box = tools();
    if (!box) return;
    if (!tile || document.querySelector("#gallery .picked:not([hidden])")) {
      box.hidden = true;
      return;
    }
    if (box.parentElement !== tile) tile.append(box);
    box.hidden = false;
    const { id, starred } = tile.dataset;
    for (const button of box.querySelectorAll("[data-do]")) button.dataset.id = id;
    const star = box.querySelector("[data-star]");
    star.dataset.do = starred === undefined ? "stage_star" : "stage_unstar";
    box.querySelector("a").href = `${tile.querySelector("a.open").dataset.file}?download=1`;
  }
  document.addEventListener("pointerover", ({ target, pointerType }) => {
    if (pointerType === "touch") return;
    const tile = target.closest?.("#gallery .tile");
    if (tile || tools()?.hidden === false) point(tile);
  });
  document.addEventListener("focusin", ({ target }) => {
    const tile = target.closest?.("#gallery .tile");
    if (tile && target.matches(":focus-visible")) point(tile);
  });

  // -- dragged to a board: the picture, or all that are ticked
  let dragged = [];
  document.addEventListener("dragstart", (event) => {
    const tile = event.target.closest?.("#gallery .tile");
    if (!tile) return;
    const ticked = [...document.querySelectorAll("#gallery [data-pick]:checked")].map(({ dataset }) => dataset.pick);
    dragged = ticked.includes(tile.dataset.id) ? ticked : [tile.dataset.id];
    event.dataTransfer.setData("text/x-pictures", dragged.join(" "));
    event.dataTransfer.effectAllowed = "copy";
    event.dataTransfer.setDragImage(tile.querySelector("img"), 24, 24);
  });
  const board = (event) => dragged.length ? event.target.closest?.("[data-board]") : null;
  const mark = (target) => {
    for (const each of document.querySelectorAll("[data-board].over")) if (each !== target) each.classList.remove("over");
    target?.classList.add("over");
  };
  document.addEventListener("dragover", (event) => {
    const target = board(event);
    mark(target);
    if (target) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    const target = board(event);
    mark(null);
    if (!target) return;
    event.preventDefault();
    window.diffusionLocalAct({ do: "board_add", id: `${target.dataset.board} ${dragged.join(" ")}` });
  });
  document.addEventListener("dragend", () => { dragged = []; mark(null); });
})();
