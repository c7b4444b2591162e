//! A real Prometheus Alertmanager: absent at first, then told once, and told that it is over.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{cancelled_run, delivered, file, make};
use crate::harness::Dev;

struct Alertmanager(Child);

impl Alertmanager {
    fn start(dev: &Dev, port: u16) -> Option<Self> {
        let config = file(
            dev,
            "alertmanager.yml",
            "route: {receiver: none}\nreceivers: [{name: none}]\n",
        );
        let mut command = Command::new("prometheus-alertmanager");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.path={}",
                dev.path().join("alerts").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().ok().map(Self)
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The alerts that it has; nothing while it does not answer.
fn alerts(port: u16) -> Option<Vec<Value>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let request = "GET /api/v2/alerts HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (_, body) = text.split_once("\r\n\r\n")?;
    serde_json::from_str(body.trim()).ok()
}

fn active(alert: &Value) -> bool {
    alert["status"]["state"] == "active"
}

#[test]
fn an_alertmanager_that_comes_late_has_the_alert_once() {
    let dev = Dev::start(1);
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("it is bound").port()
    };
    let url = format!("http://127.0.0.1:{port}/");
    make(&dev, "alerts", &["--kind", "alertmanager", "--url", &url]);
    let run = cancelled_run(&dev, "alerts");
    dev.until("an attempt to fail", || {
        let shown = dev.json(&["channel", "show", "alerts"]);
        let error = shown["state"]["last_error"].to_string();
        error.contains("refused").then_some(())
    });
    let Some(_alertmanager) = Alertmanager::start(&dev, port) else {
        eprintln!("skipped: there is no prometheus-alertmanager here");
        return;
    };
    delivered(&dev, "alerts");
    let found = dev.until("the alert", || {
        alerts(port).filter(|found| found.iter().any(active))
    });
    assert_eq!(found.len(), 1, "{found:?}");
    let labels = &found[0]["labels"];
    assert_eq!(labels["alertname"], "supernode_stress_incomplete");
    assert_eq!(
        (&labels["node"], &labels["severity"]),
        (&"node-1".into(), &"warning".into())
    );
    assert_eq!(found[0]["annotations"]["run"], run.as_str());
    // The same finding in another run is not told again within a day, so the alert stays as it is.
    cancelled_run(&dev, "alerts");
    delivered(&dev, "alerts");
    assert_eq!(alerts(port).map(|found| found.len()), Some(1));
}
