//! Tests of the table, the documents and the plots.

use super::{Figure, Report, Series, Setting, Who, json, markdown, plot, terminal};
use serde_json::{Value, json};

fn throughput() -> Figure {
    Figure::new("oltp", "write_only, 1 thread", "tx/s")
        .higher()
        .side(Who::Stock, vec![1000.0, 1200.0, 1100.0])
        .side(Who::Xylem, vec![550.0, 500.0, 600.0])
        .limit("fdatasync + TCP round trip", 2200.0)
}

fn cost() -> Figure {
    Figure::new("oltp", "CPU <of> a|b & \"c\"", "us/tx")
        .detail_of("write_only, 1 thread")
        .side(Who::Stock, vec![700.0])
        .side(Who::Xylem, vec![1400.0])
        .side(Who::Before, vec![2800.0])
        .remark("compute 900.0 + server 500.0")
}

fn series(who: Who, seconds: &[f64]) -> Series {
    Series {
        name: "write_only & more, 16 threads".to_owned(),
        who,
        seconds: seconds.to_vec(),
    }
}

fn report(against: bool) -> Report {
    let setting = Setting(vec![("kernel", "6.1".to_owned())]);
    let mut report = Report::begin(setting, against);
    report.figure(throughput());
    report.figure(cost());
    report.series(series(Who::Stock, &[10.0, 20.0]));
    report.series(series(Who::Xylem, &[15.0, 0.0]));
    report.note("merging was still going on");
    report
}

#[test]
fn ratios_compare_medians() {
    let figure = throughput();
    assert_eq!(figure.value(Who::Stock), Some(1100.0));
    assert_eq!(figure.ratio_to(Who::Stock), Some(0.5));
    assert_eq!(figure.ratio_to(Who::Before), None);
    assert_eq!(figure.times_limit(), Some(4.0));
    let figure = cost();
    assert_eq!(figure.ratio_to(Who::Stock), Some(0.5));
    assert_eq!(figure.ratio_to(Who::Before), Some(2.0));
    assert_eq!(figure.times_limit(), None);
    // A time of twice the limit.
    assert_eq!(
        figure.limit("a system call", 700.0).times_limit(),
        Some(2.0)
    );
}

#[test]
fn a_line_has_a_column_for_each_side() {
    let columns = &Who::ALL[..2];
    let line = terminal::line(&throughput(), columns);
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(
        words,
        [
            "write_only,",
            "1",
            "thread,",
            "tx/s",
            "1,100",
            "550",
            "0.50",
            "2,200",
            "4.00",
            "fdatasync",
            "+",
            "TCP",
            "round",
            "trip"
        ]
    );
    let heading = terminal::heading(columns);
    let head = heading.lines().next().unwrap();
    // The columns are below their heads.
    assert_eq!(
        head.find("xylem").unwrap() + 5,
        line.find("550").unwrap() + 3
    );
    assert_eq!(
        head.find("x limit").unwrap() + 7,
        line.find("4.00").unwrap() + 4
    );
    assert!(terminal::heading(&Who::ALL).contains("/before"));
    assert!(terminal::line(&cost(), columns).starts_with("  CPU"));
}

#[test]
fn numbers_have_few_digits() {
    let numbers = [1_234_567.8, 999.6, 99.94, 9.994, 0.001, -1000.0];
    let shown = numbers.map(|number| terminal::number(Some(number)));
    assert_eq!(
        shown,
        ["1,234,568", "1000", "99.9", "9.99", "0.00", "-1,000"]
    );
    assert_eq!(terminal::number(None), "");
}

#[test]
fn the_json_document_has_its_shape() {
    let document = serde_json::to_value(json::document(&report(true))).unwrap();
    let expected = json!({
        "version": 1,
        "setting": {"kernel": "6.1"},
        "figures": [
            {
                "part": "oltp",
                "name": "write_only, 1 thread",
                "unit": "tx/s",
                "better": "higher",
                "detail_of": null,
                "sides": {
                    "stock": {"median": 1100.0, "values": [1000.0, 1200.0, 1100.0]},
                    "xylem": {"median": 550.0, "values": [550.0, 500.0, 600.0]},
                },
                "ratio_to_stock": 0.5,
                "ratio_to_before": null,
                "limit": {"of": "fdatasync + TCP round trip", "value": 2200.0, "times": 4.0},
                "remark": null,
            },
            {
                "part": "oltp",
                "name": "CPU <of> a|b & \"c\"",
                "unit": "us/tx",
                "better": "lower",
                "detail_of": "write_only, 1 thread",
                "sides": {
                    "stock": {"median": 700.0, "values": [700.0]},
                    "xylem": {"median": 1400.0, "values": [1400.0]},
                    "before": {"median": 2800.0, "values": [2800.0]},
                },
                "ratio_to_stock": 0.5,
                "ratio_to_before": 2.0,
                "limit": null,
                "remark": "compute 900.0 + server 500.0",
            },
        ],
        "series": [
            {"name": "write_only & more, 16 threads", "side": "stock", "per_second": [10.0, 20.0]},
            {"name": "write_only & more, 16 threads", "side": "xylem", "per_second": [15.0, 0.0]},
        ],
        "notes": ["merging was still going on"],
    });
    assert_eq!(document, expected);
}

#[test]
fn the_markdown_table_has_equal_rows() {
    let plots = [("ratios.svg".to_owned(), "Ratios".to_owned())];
    let text = markdown::document(&report(true), &plots);
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 4, "{text}");
    for row in &rows {
        let escaped = row.replace("\\|", "");
        assert_eq!(escaped.matches('|').count(), 10, "{row}");
    }
    assert!(rows[3].contains("CPU &lt;of> a\\|b"), "{text}");
    assert!(text.contains("![Ratios](ratios.svg)"), "{text}");
    assert!(text.contains("- merging was still going on"), "{text}");
}

/// The texts of an SVG document, which must be well-formed.
fn texts(svg: &str) -> Vec<String> {
    let document = roxmltree::Document::parse(svg).unwrap();
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "svg");
    let texts = root.descendants().filter(|node| node.has_tag_name("text"));
    let text = |node: roxmltree::Node<'_, '_>| Some(node.text()?.trim().to_owned());
    texts.filter_map(text).collect()
}

fn count(svg: &str, tag: &str) -> usize {
    let document = roxmltree::Document::parse(svg).unwrap();
    document
        .descendants()
        .filter(|n| n.has_tag_name(tag))
        .count()
}

#[test]
fn throughput_is_plotted_with_a_line_for_each_side() {
    let all = [
        series(Who::Stock, &[10.0, 20.0, 15.0]),
        series(Who::Xylem, &[15.0, 0.0, 25.0]),
    ];
    let svg = plot::throughput(&all[0].name, &[&all[0], &all[1]]).unwrap();
    let texts = texts(&svg);
    for wanted in ["write_only & more, 16 threads", "stock", "xylem", "seconds"] {
        assert!(
            texts.iter().any(|text| text == wanted),
            "{wanted}: {texts:?}"
        );
    }
    let one = plot::throughput("one", &[&all[0]]).unwrap();
    assert!(count(&svg, "polyline") > count(&one, "polyline"));
    // A side without a single second is no error.
    plot::throughput("none", &[&series(Who::Stock, &[])]).unwrap();
}

#[test]
fn ratios_are_plotted_without_details() {
    let figures = [throughput(), throughput(), cost()];
    let svg = plot::ratios(&figures, Who::Stock).unwrap().unwrap();
    let texts = texts(&svg);
    let name = "oltp: write_only, 1 thread";
    assert_eq!(texts.iter().filter(|text| *text == name).count(), 2);
    assert_eq!(texts.iter().filter(|text| *text == "0.50").count(), 2);
    assert!(!texts.iter().any(|text| text.contains("CPU")), "{texts:?}");
    assert!(plot::ratios(&figures, Who::Before).unwrap().is_none());
}

#[test]
fn everything_is_written_to_files() {
    let dir = tempfile::tempdir().unwrap();
    let (json, markdown) = (dir.path().join("r.json"), dir.path().join("a/b"));
    let report = report(false);
    report.write_json(&json).unwrap();
    report.write_markdown(&markdown).unwrap();
    let text = std::fs::read_to_string(json).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["figures"].as_array().unwrap().len(), 2);
    let text = std::fs::read_to_string(markdown.join("results.md")).unwrap();
    for plot in ["ratios.svg", "throughput-1.svg"] {
        assert!(text.contains(&format!("({plot})")), "{text}");
        texts(&std::fs::read_to_string(markdown.join(plot)).unwrap());
    }
    assert!(!markdown.join("before.svg").exists());
}
