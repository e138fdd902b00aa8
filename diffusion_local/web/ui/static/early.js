// A prompt to type into before Gradio has drawn the form (templates/shell.html). The text, the cursor and a press of
// Generate then go over to the form. What is typed before the form is restored (page.js) is kept in place of the draft.
window.diffusionLocalEarly = (() => {
  const field = () => document.getElementById("early-prompt");
  const prompt = () => document.querySelector("#prompt textarea");
  let typed = false; // in one of the two
  let restored = false;
  let pressed = false;
  let composing = false; // by an input method, which must not be interrupted

  document.addEventListener("DOMContentLoaded", () => {
    const draft = window.diffusionLocal.draft();
    if (field() && draft) field().value = draft[0];
  });
  document.addEventListener("input", ({ target }) => {
    if (!restored && target.closest?.("#early, #prompt")) typed = true;
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
    if (typed && to.value !== value) {
      to.value = value;
      to.dispatchEvent(new Event("input", { bubbles: true }));
    }
    if (focused) {
      to.focus({ preventScroll: true });
      if (to.value === value) to.setSelectionRange(selectionStart, selectionEnd);
    }
    document.getElementById("skeleton").remove();
    generate();
  }
  function generate(tries = 100) {
    if (!pressed || !restored || field()) return;
    if (prompt().value.trim() || !tries) { // Gradio shows the restored values a moment later
      pressed = false;
      requestAnimationFrame(() => setTimeout(() => document.getElementById("generate").click()));
    } else setTimeout(() => generate(tries - 1), 50);
  }

  return {
    press, handOver,
    // The values of the form after a load: a prompt typed meanwhile wins over the draft.
    restored(draft) {
      restored = true;
      setTimeout(generate);
      return typed ? [(field() ?? prompt()).value, ...draft.slice(1)] : draft;
    },
  };
})();
