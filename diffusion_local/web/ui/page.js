// Once for the page: the keyboard, and what outlives a reload.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || !event.target.closest?.("#prompt")) return;
  event.preventDefault();
  document.getElementById("generate")?.click();
});
// Gradio loads the page anew when a lost server is back: keep what was typed.
const DRAFT = "diffusion-local-draft";
const promptBox = () => document.querySelector("#prompt textarea");
window.addEventListener("pagehide", () => sessionStorage.setItem(DRAFT, promptBox()?.value ?? ""));
const draft = sessionStorage.getItem(DRAFT);
const restore = draft && setInterval(() => {
  const box = promptBox();
  if (!box) return;
  clearInterval(restore);
  if (box.value) return;
  box.value = draft;
  box.dispatchEvent(new Event("input", { bubbles: true }));
}, 100);
