"use strict";
// Filter, order and open the items. Without this script the page shows all of them in file order.
(() => {
  const list = document.getElementById("list");
  const items = [...list.children].map((node) => ({
    node,
    number: +node.dataset.number,
    gain: +node.dataset.gain,
    finetuned: +node.dataset.finetuned,
    flagged: node.dataset.flags !== "",
    text: node.textContent.toLowerCase(),
  }));
  const [find, which, order, open, shown] = ["find", "which", "order", "open", "shown"].map((id) => document.getElementById(id));
  const near = 1e-9;
  const wanted = {
    all: () => true,
    lost: (item) => item.gain < -near,
    won: (item) => item.gain > near,
    tied: (item) => Math.abs(item.gain) <= near,
    imperfect: (item) => item.finetuned < 1 - near,
    flagged: (item) => item.flagged,
  };

  function update() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const key = order.value.replace("-", "");
    const direction = order.value.startsWith("-") ? -1 : 1;
    let count = 0;
    for (const item of items) {
      item.node.hidden = !(wanted[which.value](item) && words.every((word) => item.text.includes(word)));
      count += !item.node.hidden;
    }
    items.sort((a, b) => direction * (a[key] - b[key]) || a.number - b.number);
    list.append(...items.map((item) => item.node));
    shown.textContent = `${count} of ${items.length}`;
  }

  function openAll() {
    const opening = open.textContent === "open all";
    for (const item of items) item.node.open = opening;
    open.textContent = opening ? "close all" : "open all";
  }

  for (const control of [find, which, order]) control.addEventListener("input", update);
  open.addEventListener("click", openAll);
  document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  document.querySelector(".tools").hidden = false;
  update();
})();
