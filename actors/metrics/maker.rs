//! Makes series, and has them told from then on.

use std::cell::RefCell;

use prometheus::core::Collector;
use prometheus::{Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, Opts, Registry};

const VALID: &str = "the series of this folder have valid names and labels";
const UNIQUE: &str = "each series of this folder is made once";

/// Makes series that are of one model, or of none.
pub struct Maker<'a> {
    registry: &'a Registry,
    model_name: Option<&'a str>,
    made: RefCell<Vec<Box<dyn Collector>>>,
}

impl<'a> Maker<'a> {
    /// Of series of the whole server.
    pub fn of_server(registry: &'a Registry) -> Self {
        Self { registry, model_name: None, made: RefCell::default() }
    }

    /// Of series that are a model's own; `model_name` is the id that clients use.
    pub fn of_model(registry: &'a Registry, model_name: &'a str) -> Self {
        Self { registry, model_name: Some(model_name), made: RefCell::default() }
    }

    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.told(Gauge::with_opts(self.opts(name, help)))
    }

    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.told(Counter::with_opts(self.opts(name, help)))
    }

    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts { common_opts: self.opts(name, help), buckets: buckets.to_vec() };
        self.told(Histogram::with_opts(opts))
    }

    /// One for each value of a label. Zero until it is set, rather than absent.
    pub fn gauges<'v>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = &'v str>,
    ) -> GaugeVec {
        let gauges = self.told(GaugeVec::new(self.opts(name, help), &[label]));
        values.into_iter().for_each(|value| drop(gauges.with_label_values(&[value])));
        gauges
    }

    /// One for each value of a label. Zero until it happens, rather than absent.
    pub fn counters<'v>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = &'v str>,
    ) -> CounterVec {
        let counters = self.told(CounterVec::new(self.opts(name, help), &[label]));
        values.into_iter().for_each(|value| drop(counters.with_label_values(&[value])));
        counters
    }

    /// Any number, by their labels: none until there is something to tell.
    pub fn table(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.told(GaugeVec::new(self.opts(name, help), labels))
    }

    /// All that was made, to have it told no more.
    pub fn made(self) -> Vec<Box<dyn Collector>> {
        self.made.into_inner()
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        let opts = Opts::new(name, help);
        match self.model_name {
            Some(model_name) => opts.const_label("model_name", model_name),
            None => opts,
        }
    }

    fn told<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let made = made.expect(VALID);
        self.registry.register(Box::new(made.clone())).expect(UNIQUE);
        self.made.borrow_mut().push(Box::new(made.clone()));
        made
    }
}
