//! Stops threads where they begin a layer.

use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;
use xylem_pages::place::{Hook, Step};

/// For one thread of a name.
struct Stop {
    /// It may begin so many layers before.
    layers: u32,
    reached: bool,
}

#[derive(Default)]
struct State {
    stops: Mutex<HashMap<String, Stop>>,
    changed: Condvar,
}

/// Gives way when it is dropped, so that a test that fails comes to its end.
/// Tests bind it anew after the store whose threads it stops: locals are dropped
/// in reverse order.
#[derive(Default)]
pub struct Gate(Arc<State>);

impl Gate {
    /// The first thread called `name` that has begun so many `layers` waits
    /// where it would begin another. Those of the same name that come there
    /// after it pass.
    pub fn close(&self, name: &str, layers: u32) {
        let reached = false;
        let mut stops = self.0.stops.lock();
        stops.insert(name.to_owned(), Stop { layers, reached });
    }

    pub fn holds(&self, name: &str) -> bool {
        self.0.stops.lock().get(name).is_some_and(|s| s.reached)
    }

    pub fn open(&self) {
        self.0.stops.lock().clear();
        self.0.changed.notify_all();
    }

    pub fn hook(&self) -> Hook {
        let state = Arc::clone(&self.0);
        Arc::new(move |step| {
            if let Step::Create(file) = step
                && file.ends_with(".layer")
                && let Some(name) = std::thread::current().name()
            {
                state.pass(name);
            }
            Ok(())
        })
    }
}

impl State {
    fn pass(&self, name: &str) {
        let mut stops = self.stops.lock();
        match stops.get_mut(name) {
            Some(stop) if stop.layers > 0 => stop.layers -= 1,
            Some(stop) if !stop.reached => {
                stop.reached = true;
                while stops.contains_key(name) {
                    self.changed.wait(&mut stops);
                }
            }
            _ => {}
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}
