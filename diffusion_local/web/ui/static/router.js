// Addresses of the page: /ui/gallery?starred=1, /ui/picture/ID. Links to them are followed here, without a reload; Back,
// Forward, a reload and a second tab show what the address names. The open view is Gradio's open tab.
window.diffusionLocalRouter = (() => {
  const BASE = `${window.diffusionLocalRoot}/ui/`;
  const VIEWS = ["create", "gallery", "queue", "lists", "models", "settings"];
  const parts = (url) => url.pathname.startsWith(BASE) ? url.pathname.slice(BASE.length).split("/").filter(Boolean) : [];
  const viewOf = (url) => VIEWS.includes(parts(url)[0]) ? parts(url)[0] : "create";
  function picture(url = new URL(location)) {
    const [first, id] = parts(url);
    return first === "picture" && id ? decodeURIComponent(id) : url.searchParams.get("picture");
  }
  let shown = null; // the view of the page
  let wanted = null; // the view whose tab was pressed here, until Gradio has opened it
  const openTab = () => document.querySelector("#tabs [role=tab][aria-selected=true]")?.dataset.tabId;

  function select(view) {
    shown = view;
    document.documentElement.dataset.view = view;
    for (const link of document.querySelectorAll("#bar [data-view], #tabbar [data-view]")) {
      if (link.dataset.view === view) {
        link.setAttribute("aria-current", "page");
        document.querySelector("#bar h1").textContent = link.textContent;
      }
      else link.removeAttribute("aria-current");
    }
    press(view);
  }
  // Gradio's tabs are there before they can be pressed.
  function press(view, tries = 100) {
    if (view !== shown) return;
    wanted = tries && openTab() !== view ? view : null;
    if (!wanted) return;
    document.querySelector(`#tabs [role=tab][data-tab-id=${view}]`)?.click();
    setTimeout(() => press(view, tries - 1), 50);
  }
  // The open tab is the truth, not the events that tell of it: they come late, and more than once. Where it is another
  // one than was pressed here, the server has chosen it, as when a recipe goes into the form.
  function follow() {
    const open = openTab();
    if (open === wanted) wanted = null;
    if (!ready || wanted || open === shown || !VIEWS.includes(open)) return;
    history[picture() ? "replaceState" : "pushState"](null, "", `${BASE}${open}`);
    apply();
  }
  // The view that lies under an open picture is not touched.
  function apply() {
    const url = new URL(location);
    if (picture(url)) {
      select(shown ?? "gallery");
      const open = document.querySelector("[data-picture]")?.dataset.picture;
      if (open !== picture(url) && shown && ready) window.diffusionLocalAct({ do: "open_link", id: picture(url) });
      return;
    }
    const dialog = document.querySelector("[role=dialog]");
    if (dialog) dialog.querySelector("[data-first]")?.click();
    select(viewOf(url));
    if (ready) document.querySelector("[data-unknown]")?.remove();
    document.dispatchEvent(new CustomEvent("diffusion-local:went", { detail: { view: shown, query: url.searchParams } }));
  }
  let ready = false;

  function go(href, { replace = false } = {}) {
    const url = new URL(href, location.origin);
    if (url.href === location.href) replace = true;
    history[replace || history.state?.sheet ? "replaceState" : "pushState"](null, "", url);
    apply();
    if (!replace) window.scrollTo(0, 0);
  }
  // The filters of a view, without a new entry in the history while somebody types.
  function query(view, params, { replace = false } = {}) {
    if (viewOf(new URL(location)) !== view || picture()) return;
    const url = new URL(`${BASE}${view}`, location.origin);
    for (const [name, value] of params) if (value) url.searchParams.set(name, value);
    if (url.href !== location.href) history[replace ? "replaceState" : "pushState"](history.state, "", url);
  }

  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    const link = event.target.closest?.("a[href]");
    if (!link || link.target || link.hasAttribute("download") || link.dataset.do) return;
    const url = new URL(link.href);
    if (url.origin !== location.origin || !url.pathname.startsWith(BASE)) return;
    event.preventDefault();
    go(link.href);
  });
  window.addEventListener("popstate", apply);

  // Gradio's tabs come late: the address is followed once they are there.
  if (parts(new URL(location)).length === 0 && !picture())
    history.replaceState(null, "", `${BASE}create${location.search}${location.hash}`);
  document.documentElement.dataset.view = picture() ? "gallery" : viewOf(new URL(location));
  new MutationObserver((_, watcher) => {
    if (!document.querySelector("#tabs [role=tab][data-tab-id]")) return;
    watcher.disconnect();
    apply();
    ready = true;
    new MutationObserver(follow).observe(document.getElementById("tabs"), { subtree: true, attributeFilter: ["aria-selected"] });
  }).observe(document.documentElement, { subtree: true, childList: true });

  return {
    go, query, picture,
    base: BASE,
    view: () => shown ?? viewOf(new URL(location)),
    search() {
      const field = shown === "create" ? "#prompt textarea" : `#${shown} [type=search]`;
      document.querySelector(field)?.focus();
    },
    follow,
    // For Gradio's event of a tab that was opened.
    opened(view) {
      follow();
      return shown ?? view;
    },
  };
})();
