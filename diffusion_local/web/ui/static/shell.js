// The page's frame (templates/shell.html): its drawn parts, the queue's drawer, and the dialog that asks.
document.addEventListener("DOMContentLoaded", () => {
  for (const root of document.querySelectorAll("[data-part]"))
    window.diffusionLocalPart(root, root, root.dataset.part, (data) => window.diffusionLocalAct(data));
  // The studio fills the window below the notices (create.css), unless they float above it.
  new ResizeObserver(([{ target }]) => {
    const height = getComputedStyle(target).position === "fixed" ? 0 : target.offsetHeight;
    document.documentElement.style.setProperty("--notices", `${height}px`);
  }).observe(document.getElementById("notices"));
  // Gradio appends to the body: what is there once it has drawn replaces the skeleton.
  new MutationObserver((_, watcher) => {
    if (!document.querySelector("#generate") || !document.querySelector("#prompt textarea")) return;
    window.diffusionLocalEarly.handOver();
    Object.assign(document.querySelector("main"), { id: "view", tabIndex: -1 });
    watcher.disconnect();
  }).observe(document.documentElement, { subtree: true, childList: true });
});

// Buttons of the shell that are not within a drawn part.
document.addEventListener("click", (event) => {
  const { target } = event;
  if (target.closest?.(".skip")) { // the base of all addresses makes another page of its #view
    event.preventDefault();
    document.getElementById("view")?.focus();
  }
  const button = target.closest?.("#bar > .tools [data-do], #tabbar [data-do]");
  if (button) window.diffusionLocalAct({ do: button.dataset.do, id: button.dataset.id ?? "" });
  for (const menu of document.querySelectorAll("#tabbar details[open]"))
    if (!menu.contains(target) || target.closest(".items")) menu.open = false;
  const told = target.closest?.("#toast [data-dismiss]");
  if (told) told.closest(".toast").remove();
});

window.diffusionLocalDrawer = (() => {
  const KEPT = "diffusion-local-drawer";
  const drawer = () => document.getElementById("drawer");
  const opened = () => !!drawer() && !drawer().hidden;
  function set(on, focus = true) {
    if (!drawer()) return;
    drawer().hidden = !on;
    document.documentElement.classList.toggle("with-drawer", on);
    const button = document.querySelector("#drawer-button");
    button.setAttribute("aria-expanded", on);
    localStorage.setItem(KEPT, on ? "1" : "");
    window.diffusionLocalLook.drawer(on);
    if (!on && focus && drawer().contains(document.activeElement)) button.focus();
  }
  document.addEventListener("click", ({ target }) => {
    if (target.closest?.("[data-drawer]")) set(!opened());
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented || !drawer()?.contains(document.activeElement)) return;
    if (!document.querySelector("[role=dialog], dialog[open], .menu[open]")) set(false);
  });
  document.addEventListener("diffusion-local:went", ({ detail }) => { // the view shows the whole queue
    if (detail.view === "queue" && opened()) set(false, false);
  });
  document.addEventListener("DOMContentLoaded", () => {
    if (localStorage.getItem(KEPT) && innerWidth > 1280) set(true, false);
  });

  // Rows can be dragged to another position: `before` is the batch that then follows.
  let dragged = null;
  document.addEventListener("dragstart", (event) => {
    dragged = event.target.closest?.("[data-drag]") ?? null;
    if (dragged) event.dataTransfer.setData("text/x-batch", dragged.dataset.drag);
  });
  const place = (event) => {
    const first = event.target.closest?.("#drawer")?.querySelector("[data-drag]");
    const above = first && event.clientY < first.getBoundingClientRect().top;
    const row = above ? first : event.target.closest?.("[data-drag]");
    return dragged && row && row !== dragged ? row : null; // the server says why where two cannot change places
  };
  const mark = (row) => {
    for (const each of document.querySelectorAll(".drop-here")) if (each !== row) each.classList.remove("drop-here");
    row?.classList.add("drop-here");
  };
  document.addEventListener("dragover", (event) => {
    const row = place(event);
    mark(row);
    if (row) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    const row = place(event);
    mark(null);
    if (!row) return;
    event.preventDefault();
    window.diffusionLocalAct({ do: "batch_before", id: `${dragged.dataset.drag} ${row.dataset.drag}` });
  });
  document.addEventListener("dragend", () => { mark(null); dragged = null; });
  return { toggle: () => set(!opened()), opened, close: () => set(false) };
})();

// Asks for confirmation, or with `answer` for a line of text. Resolves to null if cancelled.
window.diffusionLocalAsk = (words, { answer, label }) => new Promise((resolve) => {
  const dialog = document.getElementById("asking");
  const [input, yes] = [dialog.querySelector("input"), dialog.querySelector(".primary")];
  dialog.querySelector("p").textContent = words;
  input.hidden = answer === undefined;
  input.value = answer ?? "";
  yes.textContent = label.replace(/…$/, "");
  dialog.returnValue = "";
  dialog.onclose = () => resolve(dialog.returnValue === "yes" ? input.value : null);
  input.onkeydown = (event) => { // Enter would press the first button, which is Cancel
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    dialog.close("yes");
  };
  dialog.showModal();
  (input.hidden ? yes : input).focus();
  input.select();
});
