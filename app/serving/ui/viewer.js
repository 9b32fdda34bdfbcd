// Draws the heat-map of the word under the pointer or with the focus. All values come with the answer, so the viewer
// sends no requests.
(() => {
  const PALETTE = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];

  function color(value) {
    const position = Math.min(Math.max(value, 0), 1) * (PALETTE.length - 1);
    const low = Math.floor(position), high = Math.min(low + 1, PALETTE.length - 1), fraction = position - low;
    return PALETTE[low].map((channel, i) => channel + (PALETTE[high][i] - channel) * fraction);
  }

  function mean(grids) {
    return grids[0].map((row, y) => row.map((_, x) => grids.reduce((sum, grid) => sum + grid[y][x], 0) / grids.length));
  }

  // The grid selected by the controls, and the value drawn brightest.
  function selectedGrid(viewer, word) {
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
    const [grid, highest] = selectedGrid(viewer, Number(pressed.dataset.word));
    const canvas = viewer.querySelector("canvas"), small = document.createElement("canvas");
    small.width = grid[0].length;
    small.height = grid.length;
    const pixels = new ImageData(small.width, small.height);
    grid.flat().forEach((value, i) => pixels.data.set([...color(highest > 0 ? value / highest : 0), 255], 4 * i));
    small.getContext("2d").putImageData(pixels, 0, 0);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    canvas.style.opacity = viewer.querySelector("[data-control=opacity]").value;
    const sum = grid.flat().reduce((a, b) => a + b, 0);
    const isEffect = pressed.dataset.word >= 0 && viewer.querySelector("[data-control=of]").value === "effect";
    viewer.querySelector("[data-status]").textContent = isEffect
      ? `“${pressed.textContent}” changes the probability of the answer by ${(100 * sum).toFixed(1)} percentage points` : "";
  }

  function press(word) {
    const viewer = word.closest(".heat-map");
    viewer.querySelectorAll(".word").forEach((other) => other.setAttribute("aria-pressed", String(other === word)));
    draw(viewer);
  }

  const on = (event, selector, act) =>
    document.addEventListener(event, (e) => { const found = e.target.closest?.(selector); if (found) act(found); });
  on("pointerover", ".heat-map .word", press);
  on("focusin", ".heat-map .word", press);
  on("click", ".heat-map .word", press);
  on("input", ".heat-map [data-control]", (control) => draw(control.closest(".heat-map")));
  new MutationObserver(() => document.querySelectorAll(".heat-map:not([data-drawn])").forEach((viewer) => {
    viewer.dataset.drawn = "";
    draw(viewer);
  })).observe(document, { childList: true, subtree: true });
})();
