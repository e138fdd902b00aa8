// Requests to the server. A call by one of Gradio's events must not end in a network error: Gradio would then drop every
// later event without a word, and reload the page once the server is back. What may be sent again waits for the server;
// what may not is answered as a failed event, and the person is told.
window.diffusionLocalCalls = (() => {
  const { fetch } = window;
  const NO_SERVER = [502, 503, 504]; // a proxy in front of a server that is away, or a server that is overloaded
  const REPEATABLE = /^repeatable/; // live.py
  const PRESS = "repeatable_press"; // tab_create.py

  function eventOf(request) {
    const url = new URL(request[0]?.url ?? request[0], location.href);
    if (url.origin !== location.origin || !url.pathname.includes("/gradio_api/run/")) return null;
    const { fn_index: id } = JSON.parse(request[1].body);
    return window.gradio_config.dependencies.find((each) => each.id === id)?.api_name ?? "";
  }
  // The answer, or null where no server gave one.
  async function send(request) {
    try {
      const answer = await fetch(...request);
      return NO_SERVER.includes(answer.status) ? null : answer;
    } catch {
      return null;
    }
  }
  async function repeat(name, request) {
    const done = name === PRESS ? window.diffusionLocalLook.hold() : () => {};
    for (;;) {
      await window.diffusionLocalLook.back();
      const answer = await send(request);
      if (answer) {
        done();
        return answer;
      }
    }
  }
  async function reason(answer) {
    try {
      const { error, detail } = await answer.clone().json();
      const told = error?.message ?? error ?? detail;
      return typeof told === "string" ? told : "";
    } catch {
      return "";
    }
  }
  function toast(words) {
    const told = Object.assign(document.createElement("div"), { className: "toast warn" });
    told.setAttribute("role", "status");
    told.dataset.key = `call-${Date.now()}`;
    told.append(Object.assign(document.createElement("span"), { textContent: words }));
    window.diffusionLocalLook.show({ toast: told.outerHTML });
  }
  async function call(name, request) {
    const answer = await send(request);
    if (answer?.ok || answer?.status === 401) return answer;
    if (!answer && REPEATABLE.test(name)) return repeat(name, request);
    const words = answer ? (await reason(answer)) || window.diffusionLocalWords.failed_action : window.diffusionLocalWords.lost_action;
    toast(words);
    return answer ?? Response.json({ error: words }, { status: 503 });
  }

  window.fetch = async (...request) => {
    const name = eventOf(request);
    const answer = await (name === null ? fetch(...request) : call(name, request));
    // Signed out meanwhile, or the session is over: every answer is 401 from now on, so go and sign in.
    if (answer.status === 401 && new URL(answer.url).origin === location.origin) location.reload();
    return answer;
  };
  return { key: () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("") };
})();
