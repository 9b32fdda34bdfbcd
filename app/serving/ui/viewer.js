// Shows the layer and the note of the word under the pointer or with the focus. All layers come with the answer, so the
// viewer sends no requests.
(() => {
  function press(word) {
    const viewer = word.closest(".evidence"), number = word.dataset.word;
    viewer.querySelectorAll(".word").forEach((other) => other.setAttribute("aria-pressed", String(other === word)));
    viewer.querySelector("[data-status]").textContent = word.dataset.note;
    const layers = [...viewer.querySelectorAll(".layer")], over = viewer.querySelector(".over");
    layers.forEach((layer) => { layer.hidden = layer.dataset.word !== number; });
    if (over) over.hidden = layers.every((layer) => layer.hidden);
  }

  const on = (event, selector, act) =>
    document.addEventListener(event, (e) => { const found = e.target.closest?.(selector); if (found) act(found); });
  on("pointerover", ".evidence .word", press);
  on("focusin", ".evidence .word", press);
  on("click", ".evidence .word", press);
  on("input", ".evidence [data-control=opacity]", (control) => {
    control.closest(".evidence").querySelector(".over").style.opacity = control.value;
  });
})();
