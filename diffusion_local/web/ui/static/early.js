// A prompt to type into before Gradio has drawn the form (templates/shell.html). The text, the cursor and a press of
// Generate then go over to the form. What is typed before Gradio shows the restored form (page.js) is kept in place of
// the draft.
window.diffusionLocalEarly = (() => {
  const LEFT = "diffusion-local-early-prompt"; // typed into a page that was reloaded before its form was there
  const field = () => document.getElementById("early-prompt");
  const prompt = () => document.querySelector("#prompt textarea");
  let typed = null; // in one of the two, as it stood last
  let restored = null; // the prompt that Gradio was given, and shows a moment later
  let settled = false;
  let pressed = false;
  let composing = false; // by an input method, which must not be interrupted

  document.addEventListener("DOMContentLoaded", () => {
    const left = sessionStorage.getItem(LEFT);
    sessionStorage.removeItem(LEFT);
    if (!field() || typed !== null) return;
    typed = left;
    field().value = left ?? window.diffusionLocal.draft()?.[0] ?? "";
  });
  window.addEventListener("pagehide", () => {
    if (restored === null && typed !== null) sessionStorage.setItem(LEFT, typed);
  });
  document.addEventListener("input", ({ target }) => {
    if (!settled && target.closest?.("#early, #prompt")) typed = target.value;
  });
  document.addEventListener("compositionstart", () => { composing = true; }, true);
  document.addEventListener("compositionend", () => {
    composing = false;
    setTimeout(handOver); // the composed text arrives with the event that follows
  }, true);
  document.addEventListener("submit", (event) => {
    if (event.target.id !== "early") return;
    event.preventDefault();
    press();
  });

  function press() {
    pressed = true;
    const button = document.querySelector("#early button");
    button.disabled = true;
    button.ariaBusy = "true";
  }
  // Called when the form is there, and again when nothing is composed any more.
  function handOver() {
    const [from, to] = [field(), prompt()];
    if (!from || !to || composing) return;
    const { value, selectionStart, selectionEnd } = from;
    const focused = document.activeElement === from;
    if (typed !== null) write(to, value);
    if (focused) {
      to.focus({ preventScroll: true });
      if (to.value === value) to.setSelectionRange(selectionStart, selectionEnd);
    }
    document.getElementById("skeleton").remove();
    generate();
  }
  function write(to, value) {
    if (to.value === value) return;
    to.value = value;
    to.dispatchEvent(new Event("input", { bubbles: true }));
  }
  // Gradio shows the restored prompt over what was typed since the values were asked for: put that back, once.
  function settle(tries = 40) {
    const to = prompt();
    const waits = composing || field();
    const shown = !waits && to?.value === restored;
    if (shown && typed !== null && typed !== restored) write(to, typed);
    else if (waits || tries) {
      setTimeout(() => settle(waits ? tries : tries - 1), 50);
      return;
    }
    settled = true;
  }
  function generate(tries = 100) {
    if (!pressed || restored === null || field()) return;
    if (prompt().value.trim() || !tries) { // Gradio shows the restored values a moment later
      pressed = false;
      requestAnimationFrame(() => setTimeout(() => document.getElementById("generate").click()));
    } else setTimeout(() => generate(tries - 1), 50);
  }

  return {
    press, handOver,
    // The values of the form after a load: a prompt typed meanwhile wins over the draft.
    restored(draft) {
      restored = typed === null ? draft[0] : (field() ?? prompt()).value;
      setTimeout(generate);
      settle();
      return [restored, ...draft.slice(1)];
    },
  };
})();
