"use strict";
(() => {
  // Grids are in the page as digits. Each is drawn on a canvas when it comes near the window, and the digits stay for screen readers.
  const COLOURS = document.getElementById("main").dataset.colours.split(" "); // of 0 to 9, and of the lines between cells

  const draw = (digits) => {
    const rows = digits.textContent.trim().split("\n");
    const across = rows[0].length;
    const cell = Math.max(4, Math.min(16, Math.floor(180 / Math.max(across, rows.length))));
    const scale = Math.max(1, window.devicePixelRatio || 1);
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-hidden", "true");
    canvas.width = (across * cell + 1) * scale;
    canvas.height = (rows.length * cell + 1) * scale;
    canvas.style.width = `${across * cell + 1}px`;
    canvas.style.height = `${rows.length * cell + 1}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.fillStyle = COLOURS[10];
    pen.fillRect(0, 0, across * cell + 1, rows.length * cell + 1);
    rows.forEach((row, y) => [...row].forEach((digit, x) => {
      pen.fillStyle = COLOURS[digit];
      pen.fillRect(x * cell + 1, y * cell + 1, cell - 1, cell - 1);
    }));
    digits.before(canvas);
    digits.parentElement.classList.add("drawn");
  };

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        near.unobserve(entry.target);
        draw(entry.target);
      }
    }
  }, { rootMargin: "600px" });

  const tasks = [...document.querySelectorAll("details.task")];
  const watch = (task) => {
    if (!task.watched) {
      task.watched = true;
      task.querySelectorAll(".grid").forEach((digits) => near.observe(digits));
    }
  };
  for (const task of tasks) {
    task.addEventListener("toggle", () => watch(task));
    if (task.open) watch(task);
  }

  const openTarget = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target && target.matches("details.task")) {
      target.hidden = false;
      target.open = true;
      target.scrollIntoView();
      target.querySelector("summary").focus({ preventScroll: true });
    }
  };
  window.addEventListener("hashchange", openTarget);
  openTarget();

  const form = document.getElementById("filter");
  if (!form) return;
  form.hidden = false;
  const filter = () => {
    const id = form.elements.wanted.value.trim().toLowerCase();
    const kind = form.elements.kind.value;
    let shown = 0;
    for (const task of tasks) {
      const fits = task.dataset.id.toLowerCase().includes(id) && (!kind || task.dataset.kinds.split(" ").includes(kind));
      task.hidden = !fits;
      shown += fits;
    }
    document.getElementById("shown").textContent = `${shown} of ${tasks.length} tasks`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.digits.addEventListener("change", (event) => document.body.classList.toggle("digits", event.target.checked));
  document.getElementById("open-all").addEventListener("click", () => tasks.forEach((task) => { task.open = !task.hidden || task.open; }));
  document.getElementById("close-all").addEventListener("click", () => tasks.forEach((task) => { task.open = false; }));
  filter();
})();
