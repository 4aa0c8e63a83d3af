//! Metrics with their values, and the text that Prometheus reads.

use prometheus::{
    TextEncoder,
    core::Collector,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

/// One metric of all that has it.
#[derive(Debug)]
pub(super) struct Family(MetricFamily);

impl Family {
    /// What only ever grows, but for a start from 0.
    pub(super) fn counter(name: &str, help: &str) -> Self {
        Self::new(MetricType::COUNTER, name, help)
    }

    /// What comes and goes.
    pub(super) fn gauge(name: &str, help: &str) -> Self {
        Self::new(MetricType::GAUGE, name, help)
    }

    fn new(kind: MetricType, name: &str, help: &str) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(format!("ipvsmesh_{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Self(family)
    }

    /// A value; labels without one are left out.
    pub(super) fn add(&mut self, labels: &[(&str, &str)], value: u64) {
        let labels = labels.iter().filter(|(_, value)| !value.is_empty());
        let labels = labels.map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::from_label(labels.collect());
        // as all of Prometheus has it: exact up to 2^53
        let value = value as f64;
        match self.0.get_field_type() {
            MetricType::COUNTER => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            _ => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.0.mut_metric().push(metric);
    }

    /// With one value that has no labels.
    pub(super) fn of(mut self, value: u64) -> Self {
        self.add(&[], value);
        self
    }
}

/// The text of all that have a value.
pub(super) fn text(
    families: impl IntoIterator<Item = Family>,
    collected: &[&dyn Collector],
) -> Result<String, prometheus::Error> {
    let families = families.into_iter().map(|family| family.0);
    let collected = collected.iter().flat_map(|collector| collector.collect());
    let mut families: Vec<_> = families.chain(collected).collect();
    families.retain(|family| !family.get_metric().is_empty());
    TextEncoder::new().encode_to_string(&families)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_prometheus() {
        let mut family = Family::counter("bytes_total", "Octets.");
        family.add(&[("service", "a \"b\"\\\n"), ("network", "")], 1 << 40);
        let empty = Family::gauge("nothing", "Of which there is none.");
        let one = Family::gauge("up", "Whether.").of(1);
        assert_eq!(
            text([family, empty, one], &[]).unwrap(),
            "# HELP ipvsmesh_bytes_total Octets.\n\
             # TYPE ipvsmesh_bytes_total counter\n\
             ipvsmesh_bytes_total{service=\"a \\\"b\\\"\\\\\\n\"} 1099511627776\n\
             # HELP ipvsmesh_up Whether.\n\
             # TYPE ipvsmesh_up gauge\n\
             ipvsmesh_up 1\n"
        );
    }
}
