// Polls for changes. One timer requests the parts that differ from those shown (web/page_delta.py); live.js patches them.
// One request at a time, so that none overtakes another; after an outage the page recovers without a reload.
window.diffusionLocalLook = (() => {
  const SHOWN = 1000; // milliseconds between looks
  const HIDDEN = 5000; // of a tab in the background: its title and the bell go on
  const PATIENCE = 15000; // for an answer
  const FORGIVEN = 2; // looks that may fail before it is told
  const drawn = {}; // the newest HTML of each part, also of those that are not there yet
  let asked = null; // the open tab, and what the tabs ask for
  let seen = "";
  let version = "";
  let failed = 0;
  let drawer = false; // whether the queue's drawer is open
  let busy = false;
  let again = false; // asked for while a look was on its way
  let timer = 0;
  // When a restart was asked for, in any tab of this browser, and how long the last one took; milliseconds.
  const RESTART = "diffusion-local-restart";
  const LONGEST_RESTART = 180000;
  const USUAL_RESTART = 20000;
  const LATEST_BEGIN = 60000; // a studio that still answers then has not been restarted, or within one look
  let held = 0; // presses that wait for the studio (calls.js)
  const waiting = []; // for the next look that is answered

  const pieces = { gallery: "", tiles: "" }; // the gallery comes without its tiles where those are as they were
  function draw(parts) {
    const { tiles, ...whole } = parts;
    if (tiles !== undefined || parts.gallery !== undefined) {
      Object.assign(pieces, tiles !== undefined && { tiles }, parts.gallery !== undefined && { gallery: parts.gallery });
      whole.gallery = pieces.gallery.replace("<!--tiles-->", () => pieces.tiles);
    }
    Object.assign(drawn, whole);
    document.dispatchEvent(new CustomEvent("diffusion-local:drawn", { detail: whole }));
  }
  async function ask(whole) {
    const [tab, ...rest] = asked;
    const answer = await fetch(`${window.diffusionLocalRoot}/look`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ seen: whole ? "" : seen, tab, asked: rest, drawer }),
      signal: AbortSignal.timeout(PATIENCE),
    });
    if (answer.status === 204) return;
    if (answer.status === 401 && seen) location.reload(); // signed out elsewhere: to the sign-in
    if (answer.status !== 200) throw new Error(answer.statusText);
    const told = await answer.json();
    version ||= told.version;
    if (version !== told.version) location.reload(); // another studio than this page was written for
    seen = told.seen;
    draw(told.parts);
    if (told.restarting && !restart()) restarts(); // asked for in another browser
  }
  function away() {
    const { away: told, restarting, held: waits } = window.diffusionLocalWords;
    const planned = restart();
    const words = `${planned ? restarting : told} ${held ? waits.replace("{}", held) : ""}`.trim();
    document.documentElement.classList.add("studio-away"); // what was foretold is no longer true
    draw({ notices: planned
      ? `<div class="notice info" role="status" data-restarting><span>${words}</span><span class="bar"><i style="animation-duration:${planned.took}ms"></i></span></div>`
      : `<div class="notice warn" role="alert" data-away><span>${words}</span></div>` });
  }
  function restarts() {
    localStorage.setItem(RESTART, `${Date.now()} ${restart()?.took ?? ((localStorage.getItem(RESTART) ?? "").split(" ")[1] || "")}`);
    away();
  }
  // {at, took} of a restart that somebody asked for and that may still go on; else null.
  function restart() {
    const [at, took] = (localStorage.getItem(RESTART) ?? "").split(" ").map(Number);
    return Date.now() - at < LONGEST_RESTART ? { at, took: took || USUAL_RESTART } : null;
  }
  function returned() {
    const planned = restart(); // which begins a moment after it was asked for
    if (planned && (failed || Date.now() - planned.at > LATEST_BEGIN)) {
      localStorage.setItem(RESTART, `0 ${Date.now() - planned.at}`);
      if (!failed) seen = ""; // the notice is replaced by the next look
    }
    failed = 0;
    document.documentElement.classList.remove("studio-away");
    for (const resolve of waiting.splice(0)) resolve();
  }
  async function look() {
    clearTimeout(timer);
    again = busy;
    if (busy || !asked) return;
    busy = true;
    const whole = failed >= FORGIVEN || (failed && restart()); // of which the notice of the absence is a part, too
    try {
      await ask(whole);
      if (whole || failed < FORGIVEN) returned();
      else again = true;
    } catch {
      failed += 1;
      if (failed === FORGIVEN || restart()) away();
    }
    busy = false;
    timer = setTimeout(look, again ? 0 : document.hidden ? HIDDEN : SHOWN);
  }
  document.addEventListener("visibilitychange", () => document.hidden || look());
  window.addEventListener("online", look);
  window.addEventListener("pageshow", look);

  return {
    drawn,
    show: draw,
    // Resolves when the studio has answered a poll.
    back: () => new Promise((resolve) => { if (asked) waiting.push(resolve); else setTimeout(resolve, SHOWN); }),
    // A press found no studio: told at once. Returns a function to call when it has arrived.
    hold() {
      held += 1;
      failed = Math.max(failed, FORGIVEN);
      away();
      return () => { held -= 1; };
    },
    restarts,
    drawer(on) {
      drawer = on;
      look();
    },
    ask(...values) {
      asked = values;
      look();
    },
  };
})();
