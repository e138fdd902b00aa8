// The Lists tab (tab_lists.py): chosen files, the example, and state that survives a reload.
window.diffusionLocalLists = (() => {
  const DRAFT = "diffusion-local-list"; // of this tab: the form
  const MOST = 5_000_000; // bytes of a file that becomes text on the page
  const words = window.diffusionLocalWords;
  let restored = false;
  const input = (id) => document.querySelector(`#${id} :is(textarea, input)`);
  function set(id, text) {
    const field = input(id);
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  function choose(what) {
    const picker = Object.assign(document.createElement("input"), { type: "file" });
    picker.accept = what === "queue" ? ".jsonl" : ".txt,.csv,.tsv,.jsonl,.ndjson,.json,text/plain,text/csv";
    picker.addEventListener("change", () => picker.files[0] && send(what, picker.files[0]));
    picker.click();
  }
  function send(what, file) {
    if (file.size > MOST) return window.alert(words.list_too_large);
    const reader = new FileReader();
    reader.addEventListener("load", () => {
      const data = reader.result.slice(reader.result.indexOf(",") + 1);
      set("list-sent", JSON.stringify({ what, name: file.name, data: file.size ? data : "", at: Date.now() }));
    });
    reader.readAsDataURL(file);
  }
  document.addEventListener("click", ({ target }) => {
    const file = target.closest?.("[data-import]");
    if (file) choose(file.dataset.import);
    const fill = target.closest?.("[data-fill]");
    if (fill) {
      set("list-text", fill.dataset.fill);
      input("list-text").focus();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || !event.target.closest?.("#list-maker")) return;
    event.preventDefault();
    document.getElementById("list-check")?.click();
  });
  // The answer to Preview may lie below the screen.
  function showAnswer() {
    requestAnimationFrame(() => {
      const answer = document.getElementById("list-checked");
      if (answer.getBoundingClientRect().top > innerHeight * 0.7) answer.scrollIntoView({ block: "start", behavior: "smooth" });
    });
  }
  return {
    choose,
    send,
    showAnswer,
    restore(...form) {
      restored = true;
      try {
        const draft = JSON.parse(sessionStorage.getItem(DRAFT));
        return Array.isArray(draft) && draft.length === form.length ? draft : form;
      } catch {
        return form;
      }
    },
    keep(...form) {
      if (!restored) return;
      try {
        sessionStorage.setItem(DRAFT, JSON.stringify(form));
      } catch {
        sessionStorage.removeItem(DRAFT); // more than a browser keeps
      }
    },
  };
})();
