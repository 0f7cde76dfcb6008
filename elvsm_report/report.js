// Links the gallery's cards, the charts' points and the viewer: whatever is chosen in one is chosen in all.
(() => {
  const viewer = document.querySelector(".viewer");
  const cards = [...document.querySelectorAll(".card")];
  if (!viewer || !cards.length) return;
  const slider = viewer.querySelector("input");
  const choose = (index) => {
    index = Math.max(0, Math.min(cards.length - 1, index));
    slider.value = index;
    viewer.querySelector(".stage").replaceChildren(...[...cards[index].children].map((n) => n.cloneNode(true)));
    viewer.querySelector("output").textContent = `${index + 1} / ${cards.length}`;
    document.querySelectorAll(".chosen").forEach((n) => n.classList.remove("chosen"));
    document.querySelectorAll(`[data-index="${index}"]`).forEach((n) => n.classList.add("chosen"));
  };
  viewer.hidden = false;
  slider.addEventListener("input", () => choose(+slider.value));
  document.addEventListener("click", (event) => {
    const step = event.target.closest("[data-step]");
    if (step) return choose(+slider.value + +step.dataset.step);
    const point = event.target.closest("[data-index]");
    if (!point) return;
    choose(+point.dataset.index);
    if (point.classList.contains("card")) viewer.scrollIntoView({ behavior: "smooth", block: "nearest" });
  });
  document.addEventListener("keydown", (event) => {
    if (event.target === slider) return;
    if (event.key === "ArrowLeft") choose(+slider.value - 1);
    if (event.key === "ArrowRight") choose(+slider.value + 1);
  });
  choose(Math.floor(cards.length / 2));
})();
