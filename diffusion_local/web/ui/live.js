// Runs once for each gr.HTML of the page (element, trigger, props, watch come from Gradio).
// Draws props.value by patching what is there, matched by data-key, so that pictures do not flicker, a progress bar
// glides and the keyboard focus stays; and turns clicks on [data-do] into one Gradio event.
const root = element.querySelector(".live");

function children(old, fresh) {
  const keyed = new Map();
  for (const node of old.childNodes) if (node.dataset?.key) keyed.set(node.dataset.key, node);
  const kept = new Set();
  let at = old.firstChild;
  for (const node of [...fresh.childNodes]) {
    const key = node.dataset?.key;
    let match = key ? keyed.get(key) : null;
    if (!key && at && at.nodeName === node.nodeName && !at.dataset?.key) match = at;
    if (match && match.nodeName === node.nodeName && !kept.has(match)) {
      if (match === at) at = at.nextSibling;
      else old.insertBefore(match, at);
      patch(match, node);
      kept.add(match);
    } else {
      old.insertBefore(node, at);
      kept.add(node);
    }
  }
  for (const node of [...old.childNodes]) if (!kept.has(node)) node.remove();
}

function patch(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.textContent !== fresh.textContent) old.textContent = fresh.textContent;
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  children(old, fresh);
}

// The server does not know the reader's time zone.
const CLOCK = { hour: "numeric", minute: "2-digit" };
function localTimes(tree) {
  for (const time of tree.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.valueOf())) continue;
    const today = moment.toDateString() === new Date().toDateString();
    time.textContent = today
      ? moment.toLocaleTimeString([], CLOCK)
      : moment.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }
}

let before = null; // what had the focus when a dialog opened
function draw() {
  const fresh = document.createElement("div");
  fresh.innerHTML = props.value ?? "";
  localTimes(fresh);
  const hadDialog = root.querySelector("[role=dialog]");
  const active = document.activeElement;
  children(root, fresh);
  const dialog = root.querySelector("[role=dialog]");
  if (dialog && !hadDialog) {
    before = active;
    dialog.querySelector("[data-first]")?.focus({ preventScroll: true });
  } else if (!dialog && hadDialog) {
    before?.focus?.();
  }
}

function act(target) {
  const { do: verb, id = "", sure } = target.dataset;
  if (sure && !window.confirm(sure)) return;
  trigger("click", { do: verb, id });
}

element.addEventListener("click", (event) => {
  const target = event.target.closest("[data-do]");
  if (!target || !root.contains(target)) return;
  if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a picture's link opens in a new tab
  if (target.dataset.self !== undefined && event.target !== target) return; // a backdrop, not what is on it
  event.preventDefault();
  act(target);
});

document.addEventListener("keydown", (event) => {
  const dialog = root.querySelector("[role=dialog]");
  if (!dialog) return;
  if (event.key === "Escape") act(dialog.querySelector("[data-first]"));
  if (event.key === "Tab") {
    const stops = [...dialog.querySelectorAll("a[href], button")];
    const edge = event.shiftKey ? stops[0] : stops.at(-1);
    if (document.activeElement === edge) {
      event.preventDefault();
      (event.shiftKey ? stops.at(-1) : stops[0]).focus();
    }
  }
});

watch("value", draw);
draw();
