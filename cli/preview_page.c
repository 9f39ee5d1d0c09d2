/* The page is one file with its own style: it must open without a network and run nothing. Every text of a record goes
 * through put_html. */
#include "cli/preview_page.h"

#include <string.h>

void preview_bins(const Preview *p, size_t *width, size_t bins[PREVIEW_BINS])
{
    static const size_t steps[] = {1, 2, 5};
    size_t longest = 1;
    for (size_t i = 0; i < p->n_lengths; i++) longest = p->lengths[i] > longest ? p->lengths[i] : longest;
    *width = 1;
    for (size_t k = 0, power = 1; *width * PREVIEW_BINS <= longest; k++) {
        if (k && k % 3 == 0) power *= 10;
        *width = steps[k % 3] * power;
    }
    memset(bins, 0, PREVIEW_BINS * sizeof *bins);
    for (size_t i = 0; i < p->n_lengths; i++) bins[p->lengths[i] / *width]++;
}

static void put_html(FILE *out, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '&': fputs("&amp;", out); break;
        case '"': fputs("&quot;", out); break;
        case '\n': fputs("<b>\xE2\x8F\x8E</b>\n", out); break;
        default: fputc(*text, out);
        }
    }
}

static const char style[] =
    ":root{--paper:#fcfbf8;--card:#fff;--ink:#22262b;--soft:#6a7079;--line:#e4e1d9;--loss:#0b5a3c;--wash:#d9f2e4;--"
    "special:#5b3fa8;--bar:#5fae8b;--cut:#c2410c}\n"
    "@media(prefers-color-scheme:dark){:root{--paper:#15181c;--card:#1c2026;--ink:#e6e8ea;--soft:#7d8590;--line:#"
    "2d333b;--loss:#b9f5d6;--wash:#12402e;--special:#c3b1fa;--bar:#3f8f6c;--cut:#fb923c}}\n"
    "*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 "
    "system-ui,-apple-system,\"Segoe UI\",Roboto,\"DejaVu Sans\",sans-serif}\n"
    "main{max-width:64rem;margin:0 auto;padding:2.2rem 1.4rem 4rem}h1{font-size:1.5rem;margin:0 0 "
    ".2rem;font-weight:650}h2{font-size:1rem;margin:0;font-weight:600;overflow-wrap:anywhere}\n"
    "p{margin:.3rem 0;color:var(--soft)}.facts{display:flex;flex-wrap:wrap;gap:.6rem;margin:1.2rem 0}.facts "
    "div{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.55rem "
    ".95rem;min-width:7.2rem}\n"
    ".facts dd{margin:0;font-size:1.2rem;font-weight:600;font-variant-numeric:tabular-nums}.facts "
    "dt{color:var(--soft);font-size:.8rem}\n"
    "figure{margin:1.2rem 0;background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem "
    "1.1rem "
    ".7rem}figcaption{color:var(--soft);font-size:.85rem;margin-bottom:.5rem}svg{display:block;width:100%;height:auto}"
    "\n"
    "svg "
    "text{fill:var(--soft);font-size:11px;font-family:inherit}.legend{position:sticky;top:0;background:var(--paper);"
    "padding:.6rem 0;margin:.4rem 0 .2rem;border-bottom:1px solid "
    "var(--line);font-size:.88rem;display:flex;gap:1.1rem;flex-wrap:wrap;align-items:center;z-index:1}\n"
    "article{background:var(--card);border:1px solid var(--line);border-radius:.6rem;margin:1.1rem "
    "0;overflow:hidden}header{padding:.75rem 1.1rem;border-bottom:1px solid "
    "var(--line);display:flex;justify-content:space-between;gap:1rem;flex-wrap:wrap}\n"
    "header p{margin:0;font-size:.88rem;font-variant-numeric:tabular-nums}pre{margin:0;padding:1rem "
    "1.1rem;white-space:pre-wrap;overflow-wrap:anywhere;font:13.5px/1.75 "
    "ui-monospace,SFMono-Regular,Menlo,Consolas,\"DejaVu Sans Mono\",monospace;color:var(--soft)}\n"
    "pre span{border-radius:2px}pre span:hover,.legend span:hover{outline:1px solid "
    "var(--special)}.s{background:var(--wash);color:var(--loss);box-shadow:0 0 0 .5px "
    "var(--wash)}.x{color:var(--special);font-weight:600}pre b{font-weight:400;opacity:.45}\n"
    "i{display:none;font-style:normal;font-size:.68em;opacity:.75;vertical-align:super;margin:0 "
    ".15em}#ids{position:absolute;opacity:0}label{cursor:pointer;border:1px solid "
    "var(--line);border-radius:1rem;padding:.1rem .75rem;margin-left:auto}\n"
    "#ids:checked~main label{background:var(--wash);color:var(--loss)}#ids:checked~main "
    "i{display:inline}#ids:checked~main pre span{outline:1px solid var(--line)}#ids:focus-visible~main "
    "label{outline:2px solid var(--special)}.cut{color:var(--cut)}\n";

static void put_fact(FILE *out, const char *what, size_t n)
{
    char digits[32];
    int length = snprintf(digits, sizeof digits, "%zu", n);
    fprintf(out, "<div><dd>");
    for (int i = 0; i < length; i++) fprintf(out, "%s%c", i && (length - i) % 3 == 0 ? "&#8239;" : "", digits[i]);
    fprintf(out, "</dd><dt>%s</dt></div>", what);
}

static void put_facts(FILE *out, const Preview *p)
{
    fputs("<dl class=facts>", out);
    put_fact(out, "documents", p->totals.documents);
    put_fact(out, "tokens", p->totals.tokens);
    put_fact(out, "in the loss", p->totals.n_loss_tokens);
    put_fact(out, "longest", p->totals.longest);
    put_fact(out, "cut", p->totals.truncated);
    put_fact(out, "dropped", p->totals.dropped);
    fputs("</dl>\n", out);
}

static void put_histogram(FILE *out, const Preview *p)
{
    enum { WIDTH = 880, HEIGHT = 150, LEFT = 8 };
    size_t width, bins[PREVIEW_BINS], highest = 1, last = 0;
    preview_bins(p, &width, bins);
    for (size_t i = 0; i < PREVIEW_BINS; i++) {
        highest = bins[i] > highest ? bins[i] : highest;
        if (bins[i]) last = i;
    }
    double step = (double)(WIDTH - 2 * LEFT) / (double)(last + 1), limit = (double)p->max_length / (double)width;
    fprintf(out, "<figure><figcaption>Lengths in tokens, before any cut; %zu tokens per bar</figcaption>", width);
    fprintf(out, "<svg viewBox=\"0 0 %d %d\" role=img aria-label=\"histogram of lengths\">", WIDTH, HEIGHT + 36);
    for (size_t i = 0; i <= last; i++) {
        double h = (double)bins[i] / (double)highest * HEIGHT, x = LEFT + step * (double)i;
        fprintf(
            out,
            "<rect x=%.1f y=%.1f width=%.1f height=%.1f rx=2 fill=\"var(--bar)\"><title>%zu to %zu: %zu</title></rect>",
            x + 1, 14 + HEIGHT - h, step - 2, h, i * width, (i + 1) * width - 1, bins[i]);
        if (bins[i])
            fprintf(out, "<text x=%.1f y=%.1f text-anchor=middle>%zu</text>", x + step / 2, 10 + HEIGHT - h, bins[i]);
        if (i % 4 == 0) fprintf(out, "<text x=%.1f y=%d>%zu</text>", x, HEIGHT + 31, i * width);
    }
    fprintf(out, "<path d=\"M%d %dH%d\" stroke=\"var(--line)\"/>", LEFT, HEIGHT + 15, WIDTH - LEFT);
    if (limit < (double)(last + 1))
        fprintf(out,
                "<path d=\"M%.1f 14V%d\" stroke=\"var(--cut)\" stroke-dasharray=\"4 3\"/><text x=%.1f y=26 "
                "style=\"fill:var(--cut)\">max_length %zu</text>",
                LEFT + step * limit, HEIGHT + 15, LEFT + step * limit + 5, p->max_length);
    fputs("</svg></figure>\n", out);
}

static void put_record(FILE *out, const ShownRecord *r)
{
    const Document *d = &r->built.document;
    fputs("<article><header><h2>", out);
    put_html(out, r->file);
    fprintf(out, ", line %zu</h2><p>%s", r->line, record_format_name(r->built.format));
    if (*r->domain) {
        fputs(" \xC2\xB7 ", out);
        put_html(out, r->domain);
    }
    fprintf(out, " \xC2\xB7 %zu tokens \xC2\xB7 %zu in the loss", d->n, d->n_loss_tokens);
    if (r->built.truncated) fprintf(out, " \xC2\xB7 <span class=cut>cut from %zu</span>", r->whole);
    if (r->built.dropped) fprintf(out, " \xC2\xB7 <span class=cut>dropped: %zu tokens</span>", r->whole);
    fputs("</p></header><pre>", out);
    for (size_t i = 0; i < r->n; i++) {
        const ShownToken *t = &r->tokens[i];
        if (t->begins_turn) fputs("<br>", out);
        fprintf(out, "<span%s title=\"%zu: id %d\">",
                t->in_loss && t->special ? " class=\"s x\""
                : t->in_loss             ? " class=s"
                : t->special             ? " class=x"
                                         : "",
                i, t->id);
        put_html(out, t->text);
        fprintf(out, "<i>%d</i></span>", t->id);
    }
    fputs("</pre></article>\n", out);
}

void preview_page(FILE *out, const Preview *p)
{
    fprintf(out,
            "<!DOCTYPE html>\n<html lang=en><meta charset=utf-8><meta name=viewport "
            "content=\"width=device-width\"><title>graft preview</title>\n<style>\n%s</style>\n",
            style);
    fprintf(out,
            "<body><input type=checkbox id=ids aria-label=\"show ids\"><main><h1>What goes into the "
            "loss</h1><p>template %s, train_on %s, max_length %zu%s</p>\n",
            p->template, p->train_on, p->max_length, p->more ? "; only the first documents" : "");
    put_facts(out, p);
    put_histogram(out, p);
    fputs("<div class=legend><span class=s>&nbsp;in the loss&nbsp;</span><span>not in the loss</span><span "
          "class=x>&lt;special&gt;</span><label for=ids>token ids</label></div>\n",
          out);
    for (size_t i = 0; i < p->n_records; i++) put_record(out, &p->records[i]);
    fputs("</main>\n", out);
}
