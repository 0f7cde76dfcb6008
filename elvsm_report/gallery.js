// The gallery of an evaluation: pages of cards and of table rows, sorted by any metric, and pictures enlarged.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const make = (tag, attributes = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), attributes);
    node.append(...children);
    return node;
  };
  const text = (metric, value) => value.toFixed(data.digits[metric]);
  const better = (metric) => (data.lower.includes(metric) ? -1 : 1);
  const ranked = Object.fromEntries(
    data.metrics.map((m, i) => [m, data.scenes.map((s) => s[i + 1]).sort((a, b) => better(m) * (a - b))]),
  );
  // The worst third of all scenes, and the best.
  const third = (metric, value) => {
    const values = ranked[metric], n = values.length, sign = better(metric);
    if (n < 3) return "";
    if (sign * value < sign * values[Math.floor(n / 3)]) return "poor";
    return sign * value > sign * values[Math.ceil((2 * n) / 3) - 1] ? "good" : "";
  };
  const listed = (metrics) =>
    data.metrics.map((m) => make("span", { className: third(m, metrics[m]), textContent: `${m.toUpperCase()} ${text(m, metrics[m])}` }));

  const dialog = make("dialog");
  const large = make("img"), words = make("p");
  dialog.append(large, words);
  document.body.append(dialog);
  let open = null; // the pictures of a scene, [{name, pictures: [[what, uri], ...]}, ...], and which one is shown
  const show = () => {
    const view = open.views[open.at], [what, uri] = view.pictures[open.side % view.pictures.length];
    large.src = uri;
    large.onload = () => dialog.style.setProperty("--aspect", large.naturalWidth / large.naturalHeight);
    words.textContent = [open.scene, view.name, what, view.note].filter(Boolean).join(" · ");
    if (!dialog.open) dialog.showModal();
  };
  dialog.addEventListener("click", () => dialog.close());
  document.addEventListener("keydown", (event) => {
    if (!dialog.open) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) open.at = (open.at + step + open.views.length) % open.views.length;
    else if (event.key === " ") open.side += 1;
    else return;
    event.preventDefault();
    show();
  });

  const card = (scene) => {
    const views = [
      ...scene.inputs.map((v) => ({ name: v.name, note: "", pictures: [["input", v.picture]] })),
      ...scene.targets.map((t) => ({
        name: t.name,
        note: data.metrics.map((m) => `${m.toUpperCase()} ${text(m, t.metrics[m])}`).join(", "),
        pictures: [["truth", t.truth], ["render", t.render]],
      })),
    ];
    const picture = (at, side, caption) => {
      const image = make("img", { src: views[at].pictures[side][1], alt: `${views[at].pictures[side][0]} ${views[at].name}`, loading: "lazy" });
      image.addEventListener("click", () => { open = { scene: scene.scene, views, at, side }; show(); });
      return make("figure", {}, image, make("figcaption", { textContent: caption }));
    };
    const n = scene.inputs.length;
    const strip = (title, figures) => [make("h4", { textContent: title }), make("div", { className: "strip" }, ...figures)];
    const side = make("div", { className: "side" },
      make("div", {}, ...strip("inputs", scene.inputs.map((v, i) => picture(i, 0, v.name)))),
      make("div", {},
        ...strip("truth, and the render below", scene.targets.map((t, i) => picture(n + i, 0, t.name))),
        make("div", { className: "strip" }, ...scene.targets.map((t, i) => picture(n + i, 1, views[n + i].note)))));
    if (scene.video) {
      const film = make("video", { src: scene.video, controls: true, muted: true, loop: true, playsInline: true, preload: "metadata" });
      side.append(make("div", {}, make("h4", { textContent: "along the path of the inputs" }), film));
    }
    const node = make("article", { className: "scene", id: `scene-${scene.scene}` });
    node.append(make("header", {}, make("b", { textContent: scene.scene }), ...listed(scene.means)), side);
    return node;
  };

  // A list in pages: what(items of a page) draws them.
  const pages = (host, items, size, draw, extras = []) => {
    let at = 0;
    const back = make("button", { type: "button", textContent: "‹ previous" });
    const on = make("button", { type: "button", textContent: "next ›" });
    const jump = make("input", { type: "number", className: "jump", min: 1, ariaLabel: "page" });
    const of = make("span"), place = make("div");
    const go = (page) => {
      const count = Math.max(1, Math.ceil(items().length / size));
      at = Math.max(0, Math.min(count - 1, page));
      jump.value = at + 1;
      jump.max = count;
      of.textContent = `of ${count} pages`;
      back.disabled = at === 0;
      on.disabled = at === count - 1;
      place.replaceChildren(...draw(items().slice(at * size, (at + 1) * size)));
    };
    back.addEventListener("click", () => go(at - 1));
    on.addEventListener("click", () => go(at + 1));
    jump.addEventListener("change", () => go((parseInt(jump.value) || 1) - 1));
    host.append(make("div", { className: "bar" }, ...extras, make("span", { className: "spring" }), back, jump, of, on), place);
    return go;
  };

  const SIZE = 8, ROWS = 50;
  const host = document.getElementById("cards");
  let shown = [], to = () => {}, reveal = () => {};
  if (host) {
    const order = make("select", { ariaLabel: "order" });
    for (const m of data.metrics) {
      order.append(make("option", { value: `${m} 1`, textContent: `worst ${m.toUpperCase()} first` }));
      order.append(make("option", { value: `${m} -1`, textContent: `best ${m.toUpperCase()} first` }));
    }
    order.append(make("option", { value: "scene", textContent: "by name" }));
    const find = make("input", { type: "search", placeholder: "scene", ariaLabel: "find a scene" });
    const sort = () => {
      const [key, sign] = order.value.split(" ");
      shown = data.cards.filter((c) => c.scene.includes(find.value.trim()));
      shown.sort((a, b) =>
        key === "scene" ? a.scene.localeCompare(b.scene) : sign * better(key) * (a.means[key] - b.means[key]));
      to(0);
    };
    to = pages(host, () => shown, SIZE, (part) => part.map(card), [order, find]);
    order.addEventListener("change", sort);
    find.addEventListener("input", sort);
    sort();
    reveal = (name) => {
      if (!shown.some((c) => c.scene === name)) {
        find.value = "";
        sort();
      }
      to(Math.floor(shown.findIndex((c) => c.scene === name) / SIZE));
      document.getElementById(`scene-${name}`).scrollIntoView({ behavior: "smooth" });
    };
  }

  const pictured = new Set(data.cards.map((c) => c.scene));
  const rows = [...data.scenes];
  let column = 1, sign = 1;
  const body = make("tbody"), head = make("tr");
  const row = (values) => {
    const name = make("td", {}, values[0]);
    if (pictured.has(values[0])) {
      const link = make("a", { href: "#cards", textContent: values[0] });
      link.addEventListener("click", (event) => { event.preventDefault(); reveal(values[0]); });
      name.replaceChildren(link);
    }
    const cells = data.metrics.map((m, i) => make("td", { className: third(m, values[i + 1]), textContent: text(m, values[i + 1]) }));
    return make("tr", {}, name, ...cells);
  };
  const all = make("div", { className: "numbers" }, make("table", {}, make("thead", {}, head), body));
  const turn = pages(document.getElementById("table"), () => rows, ROWS, (part) => {
    body.replaceChildren(...part.map(row));
    return [all];
  });
  const sortRows = () => {
    rows.sort((a, b) => sign * (column ? a[column] - b[column] : a[0].localeCompare(b[0])));
    [...head.cells].forEach((cell, i) => {
      cell.ariaSort = i === column ? (sign > 0 ? "ascending" : "descending") : null;
    });
    turn(0);
  };
  ["scene", ...data.metrics].forEach((name, i) => {
    const button = make("button", { type: "button", textContent: i ? name.toUpperCase() : name });
    button.addEventListener("click", () => { sign = column === i ? -sign : 1; column = i; sortRows(); });
    head.append(make("th", {}, button));
  });
  sortRows();
})();
