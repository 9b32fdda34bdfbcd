// The heat-map of the page: follows the word under the pointer or with the focus. Everything it draws came with the
// answer, so nothing is asked of the server.
(() => {
  const PALETTE = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];

  function color(value) {
    const place = Math.min(Math.max(value, 0), 1) * (PALETTE.length - 1);
    const low = Math.floor(place), high = Math.min(low + 1, PALETTE.length - 1), share = place - low;
    return PALETTE[low].map((channel, i) => channel + (PALETTE[high][i] - channel) * share);
  }

  function mean(grids) {
    return grids[0].map((row, y) => row.map((_, x) => grids.reduce((sum, grid) => sum + grid[y][x], 0) / grids.length));
  }

  // The grid that the controls ask for, and the value that is brightest.
  function chosen(viewer, word) {
    const heat = JSON.parse(viewer.dataset.heat);
    const control = (name) => viewer.querySelector(`[data-control=${name}]`)?.value ?? "";
    const largest = (grids) => Math.max(...grids.flat(2));
    if (word < 0) return [heat.answer, largest([heat.answer])];
    if (control("of") !== "attention") return [heat.effects[word], Math.max(largest(heat.effects), largest([heat.answer]))];
    const heads = heat.attention[control("level")], head = control("head");
    const maps = heads[0].map((_, w) => head === "" ? mean(heads.map((one) => one[w])) : heads[Number(head)][w]);
    return [maps[word], largest(maps)];
  }

  function draw(viewer) {
    const pressed = viewer.querySelector(".word[aria-pressed=true]");
    const [grid, most] = chosen(viewer, Number(pressed.dataset.word));
    const canvas = viewer.querySelector("canvas"), small = document.createElement("canvas");
    small.width = grid[0].length;
    small.height = grid.length;
    const pixels = new ImageData(small.width, small.height);
    grid.flat().forEach((value, i) => pixels.data.set([...color(most > 0 ? value / most : 0), 255], 4 * i));
    small.getContext("2d").putImageData(pixels, 0, 0);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    canvas.style.opacity = viewer.querySelector("[data-control=opacity]").value;
    const sum = grid.flat().reduce((a, b) => a + b, 0);
    const isEffect = pressed.dataset.word >= 0 && viewer.querySelector("[data-control=of]").value === "effect";
    viewer.querySelector("[data-told]").textContent = isEffect
      ? `“${pressed.textContent}” brought ${(100 * sum).toFixed(1)} points of probability to the answer` : "";
  }

  function press(word) {
    const viewer = word.closest(".looked");
    viewer.querySelectorAll(".word").forEach((other) => other.setAttribute("aria-pressed", String(other === word)));
    draw(viewer);
  }

  const on = (event, selector, act) =>
    document.addEventListener(event, (e) => { const found = e.target.closest?.(selector); if (found) act(found); });
  on("pointerover", ".looked .word", press);
  on("focusin", ".looked .word", press);
  on("click", ".looked .word", press);
  on("input", ".looked [data-control]", (control) => draw(control.closest(".looked")));
  new MutationObserver(() => document.querySelectorAll(".looked:not([data-drawn])").forEach((viewer) => {
    viewer.dataset.drawn = "";
    draw(viewer);
  })).observe(document, { childList: true, subtree: true });
})();
